"""The stage trace: at which steps, and where in the network, quantization makes errors. results/trace.py reads what it writes.

A few samples are walked three times from the same noise, in float32 whatever sampling's numerics are: in full precision,
quantized without correction, and quantized with it where a correction acts. Only statistics are kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dmq_cli.diagnose import Walks
from dmq_cli.diagnose import trace as traced
from dmq_cli.results.images import pixels_of, write_arrays
from dmq_cli.results.trace import IMAGES, SUMMARY, TENSORS
from dmq_cli.sampling import parse_range
from dmq_cli.stages import build
from dmq_cli.stages.graph import Task
from dmq_cli.store import write_json
from dmq_cli.store.tensors import save_tensors

_SHOWN = 16  # images that are decoded


@torch.inference_mode()
def trace(task: Task) -> None:
    """Walk the seeds of config["trace"], and write what `load_trace` reads."""
    walks, seeds = _walks(task), parse_range(task.config["trace"]["seeds"])
    report = task.progress.update
    statistics = traced(walks, seeds, task.runtime["batch_size"], lambda done, total: report("calls", done, total))
    save_tensors(task.work / TENSORS, statistics.tensors)
    _save_images(task, statistics.finals)
    summary = {
        "samples": len(seeds),
        "timesteps": walks.scheduler.timesteps.tolist(),
        "blocks": statistics.blocks,
        "sites": statistics.sites,
        "corrected": walks.correction is not None,
        "channels": statistics.channels,
    }
    write_json(task.work / SUMMARY, summary)


def _walks(task: Task) -> Walks:
    pair = build.quantized(task.config, task.runtime, task.inputs["reconstruct"])
    settings, scheduler = build.sampler(task.config)
    correction = build.correction(task.config, task.inputs["correct"])
    guide = build.guide(task.config, task.runtime, task.config["correct"].get("target"))
    return Walks(pair.attached, pair.full, pair.quantized, scheduler, correction, settings.eta, guide)


def _save_images(task: Task, finals: Mapping[str, Tensor]) -> None:
    decode = build.decoder(task.config, task.runtime)
    pictures: dict[str, Any] = {}
    for side, last in finals.items():
        images = last[:_SHOWN] if decode is None else decode(last[:_SHOWN])
        pictures[side] = pixels_of(images, task.config["to_uint8"])
    write_arrays(task.work / IMAGES, **pictures)
