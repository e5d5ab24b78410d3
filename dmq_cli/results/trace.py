"""Read the artifact of the stage trace: at which steps, and where in the network, quantization makes errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.store import read_json
from dmq_cli.store.tensors import load_tensors

Array = NDArray[Any]
SUMMARY, TENSORS, IMAGES = "trace.json", "trace.safetensors", "images.npz"
_TWINS = ("trajectory", "eps", "block_cosine", "block_error")


@dataclass(frozen=True)
class Trace:
    """The content of trace.json, trace.safetensors and images.npz; S: network calls of one trajectory, in call order.

    samples: walked; timesteps: S; blocks and sites: names in execution order; channels: layers in channel_max.
    trajectory, eps, block_cosine, block_error: by "quantized" and, where `corrected`, "corrected". trajectory (S + 1,):
    median over samples of |x_hat - x|^2 / |x|^2 of the sampler's state each step starts from, last of the final sample;
    eps (S,): the same of the guided, corrected estimate; block_error (S, blocks): the same of every block's output;
    block_cosine (S, blocks): their mean cosine similarity to full precision. NaN where full precision gives zero. The file
    also has block_cosine_each (samples, blocks), of each sample over all calls, for the papers' figures.
    activations (S, sites, 5): min, quartiles, max of what the input quantizer would read in full precision (after the
    transform); scales (S, sites): its interval, the mean over parts of a split, channels or samples; NaN for a log2 grid.
    channel_max: "full" and "transformed" by layer, (S, C), greatest |input| before and after the transform.
    slope (S, C): the factor that brings the quantized estimate nearest to the full-precision one on the same input, over all
    samples; None in a trace that was made before it was measured.
    images: "full", "quantized", "corrected"?, uint8 (k, H, W, C), or samples of another shape.
    """

    samples: int
    timesteps: list[int]
    blocks: list[str]
    sites: list[str]
    corrected: bool
    channels: list[str]
    trajectory: dict[str, Array]
    eps: dict[str, Array]
    block_cosine: dict[str, Array]
    block_error: dict[str, Array]
    activations: Array
    scales: Array
    channel_max: dict[str, dict[str, Array]]
    slope: Array | None
    images: dict[str, Array]

    @property
    def twins(self) -> list[str]:
        """The sides compared with full precision: "quantized" and, where there is a correction, "corrected"."""
        return ["quantized", "corrected"] if self.corrected else ["quantized"]


def load_trace(folder: Path) -> Trace:
    """Read the artifact of the stage trace. Raises ArtifactCorruptError where a file or an entry is missing."""
    summary = read_json(folder / SUMMARY)
    arrays = {name: tensor.numpy() for name, tensor in load_tensors(folder / TENSORS).items()}
    twins: dict[str, Any] = {name: _below(arrays, f"{name}.") for name in _TWINS}
    channels = {kind: _below(arrays, f"channel_max.{kind}.") for kind in ("full", "transformed")}
    try:
        return Trace(
            **summary,
            **twins,
            activations=arrays["activations"],
            scales=arrays["scales"],
            channel_max=channels,
            slope=arrays.get("slope"),
            images=_images(folder / IMAGES),
        )
    except (KeyError, TypeError) as error:
        raise ArtifactCorruptError(f"{folder} is no whole trace ({error}); delete it and run again.") from error


def _below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}


def _images(file: Path) -> dict[str, Array]:
    try:
        with np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # zipfile, numpy and the OS each have their own
        raise ArtifactCorruptError(
            f"{file} could not be read as images ({error}); delete its folder and run again."
        ) from error
