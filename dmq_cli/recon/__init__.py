"""Reconstruction: quantization parameters learned so that each unit gives what its full-precision twin gives."""

from dmq_cli.recon.brecq import Brecq, NoReconstruction

__all__ = ["Brecq", "NoReconstruction"]
