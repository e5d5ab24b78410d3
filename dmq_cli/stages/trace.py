"""The stage trace, and its artifact read back: where along the way, and where in the network, quantization errs.

A few samples are walked three times from the same noise, in float32 whatever sampling's numerics are: in full precision,
quantized without correction, and quantized with it where a correction acts. Only statistics are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.metrics import Walks, to_uint8
from dmq_cli.metrics import trace as traced
from dmq_cli.sampling import parse_range
from dmq_cli.stages import build
from dmq_cli.stages.graph import Task
from dmq_cli.stages.images import write_arrays
from dmq_cli.store import read_json, write_json
from dmq_cli.store.tensors import load_tensors, save_tensors

Array = NDArray[Any]
SUMMARY, TENSORS, IMAGES = "trace.json", "trace.safetensors", "images.npz"
_TWINS = ("trajectory", "eps", "block_cosine", "block_error")
_SHOWN = 16  # images that are decoded


@dataclass(frozen=True)
class Trace:
    """What trace.json, trace.safetensors and images.npz hold; S: network calls of one trajectory, in call order.

    samples: walked; timesteps: S; blocks and sites: names in execution order; channels: layers in channel_max.
    trajectory, eps, block_cosine, block_error: by "quantized" and, where `corrected`, "corrected". trajectory (S + 1,):
    median over samples of |x_hat - x|^2 / |x|^2 of the sampler's state each step starts from, last of the final sample;
    eps (S,): the same of the guided, corrected estimate; block_error (S, blocks): the same of every block's output;
    block_cosine (S, blocks): their mean cosine similarity to full precision. NaN where full precision gives zero. The file
    also has block_cosine_each (samples, blocks), of each sample over all calls, for the papers' figures.
    activations (S, sites, 5): min, quartiles, max of what the input quantizer would read in full precision (after the
    transform); scales (S, sites): its interval, the mean over parts of a split, channels or samples; NaN for a log2 grid.
    channel_max: "full" and "transformed" by layer, (S, C), greatest |input| before and after the transform.
    images: "full", "quantized", "corrected"?, uint8 (k, H, W, C).
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
    images: dict[str, Array]

    @property
    def twins(self) -> list[str]:
        """What was compared with full precision: "quantized" and, where a correction acts, "corrected"."""
        return ["quantized", "corrected"] if self.corrected else ["quantized"]


@torch.inference_mode()
def trace(task: Task) -> None:
    """Walk the seeds of config["trace"], and write what `load_trace` reads."""
    walks, seeds = _walks(task), parse_range(task.config["trace"]["seeds"])
    report = task.progress.update
    found = traced(walks, seeds, task.runtime["batch_size"], lambda done, total: report("calls", done, total))
    save_tensors(task.work / TENSORS, found.tensors)
    _save_images(task, found.finals)
    summary = {
        "samples": len(seeds),
        "timesteps": walks.scheduler.timesteps.tolist(),
        "blocks": found.blocks,
        "sites": found.sites,
        "corrected": walks.correction is not None,
        "channels": found.channels,
    }
    write_json(task.work / SUMMARY, summary)


def _walks(task: Task) -> Walks:
    pair = build.Quantized(task.config, task.runtime, task.inputs["reconstruct"])
    settings, scheduler = build.sampler(task.config)
    correction = build.make(task.config["correct"]).load(load_tensors(task.inputs["correct"] / "tables.safetensors"))
    guide = build.guide(task.config, task.runtime, task.config["correct"].get("target"))
    return Walks(pair.attached, pair.full, pair.quantized, scheduler, correction, settings.eta, guide)


def _save_images(task: Task, finals: Mapping[str, Tensor]) -> None:
    decode = build.decoder(task.config, task.runtime)
    pictures: dict[str, Any] = {}
    for side, last in finals.items():
        images = last[:_SHOWN] if decode is None else decode(last[:_SHOWN])
        pictures[side] = to_uint8(images.clamp(-1, 1), task.config["to_uint8"]).permute(0, 2, 3, 1).cpu().numpy()
    write_arrays(task.work / IMAGES, **pictures)


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
