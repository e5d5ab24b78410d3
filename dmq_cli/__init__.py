"""dmq: an experiment runner for quantizing diffusion models.

In Python, `dmq_cli.load(run)` gives back the quantized, corrected model of a finished run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from dmq_cli.stages.load import Loaded

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(run: str | Path, trusted: Iterable[str] = ()) -> Loaded:
    """The model of a run folder (`outputs/runs/<verb>/<time>-<key>`) as a Denoiser: eps = model(sample, timestep).

    model.sample("0-15") draws with the run's own sampler, model.as_pipeline() is that as a pipeline of diffusers'.
    trusted: classes besides dmq's own, by their `_target_`, that the run's configuration may name; they are imported and
    called, so name only what you have read. Artifacts and model files are checked against the hashes that were recorded.
    Raises ArtifactError for a folder that is no finished run of correct, sample or evaluate, whose artifacts are lost or
    altered, or whose trusted code changed since, ModelError for model files that did, ConfigError for a class that is not trusted.
    """
    from dmq_cli.stages.load import load_run

    return load_run(run, trusted)
