"""dmq: an experiment runner for quantizing diffusion models."""

__version__ = "0.1.0"
