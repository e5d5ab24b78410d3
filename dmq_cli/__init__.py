"""dmq: an experiment runner for quantizing diffusion models.

In Python, `dmq_cli.quantize(unet, scheduler)` quantizes a model, and `dmq_cli.load(run)` gives back that of a finished run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, overload

from dmq_cli import compat

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from typing import Any, Literal

    from dmq_cli.stages.load import Loaded, RunDenoiser

__version__ = "0.1.0"
__all__ = ["__version__", "load", "quantize"]

compat.install()


@overload
def load(run: str | Path, trusted: Iterable[str] = (), backend: Literal["simulated"] = "simulated") -> Loaded: ...


@overload
def load(run: str | Path, trusted: Iterable[str] = (), *, backend: str) -> RunDenoiser: ...


def load(run: str | Path, trusted: Iterable[str] = (), backend: str = "simulated") -> RunDenoiser:
    """The model of a run folder (`outputs/runs/<verb>/<time>-<key>`), or of one of dmq export, as a Denoiser: eps = model(sample, timestep).

    model.sample("0-15") draws with the run's own sampler, model.as_pipeline() is that as a pipeline of diffusers'.
    trusted: classes besides dmq's own, by their `_target_`, that the run's configuration may name; they are imported and
    called, so name only what you have read. backend: openvino, onnx or pytorch run the network in 8-bit integers on the CPU; such a model has
    sample, and no network or pipeline. Artifacts and model files are checked against the hashes that were recorded.
    Raises ArtifactError for a folder that is no finished run of correct, sample or evaluate, whose artifacts are lost or
    altered, or whose trusted code changed since, ModelError for model files that did, ConfigError for a class that is not trusted.
    """
    from dmq_cli.stages.load import load_run

    return load_run(run, trusted, backend)


def quantize(
    model: Any, scheduler: Any = None, *, method: str = "qdiffusion", bits: str = "w4a8", calibration: str | None = None,
    overrides: Sequence[str] = (), outputs: str | Path = "outputs",
) -> Loaded:  # fmt: skip
    """Quantize a diffusion model as `dmq correct` does, and return it as a Denoiser: eps = quantized(sample, timestep).

    model: a diffusers network, with its scheduler, or the path of a pipeline's folder. method, bits: choices of conf/method and
    conf/bits, or widths such as w5a7; calibration: a choice of conf/calib, None: the method's own. overrides: further words of the
    command line, such as "budget=smoke" or "runtime.batch_size=100". Everything computed is kept below `outputs`, so that the same call
    is quick the next time. Raises ConfigError for words that do not fit, ModelError for a network dmq does not know.
    """
    from dmq_cli.api import quantize

    return quantize(
        model, scheduler, method=method, bits=bits, calibration=calibration, overrides=overrides, outputs=outputs
    )
