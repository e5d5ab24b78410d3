"""dmq: an experiment runner for quantizing diffusion models.

In Python, `dmq_cli.load(run)` gives back the quantized, corrected model of a finished run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dmq_cli.stages.load import Loaded

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: str | Path) -> Loaded:
    """The model of a run folder (outputs/runs/<verb>/<time>-<key>) as a Denoiser: eps = model(sample, timestep).

    Raises ArtifactError for a folder that is no finished run of correct, sample or evaluate, or that lost its artifacts.
    """
    from dmq_cli.stages.load import load_run

    return load_run(run)
