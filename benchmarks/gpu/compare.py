"""How far two runs of one job are apart, and how far they may be."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.results.images import load_images
from dmq_cli.stages import build
from dmq_cli.store import read_json

MOST_CODES = 0.05
"""Of all codes of weights: learned decisions near their edge, which another order of the same float32 sums may turn."""
LEAST_FULL, LEAST_SAMPLED, LEAST_LEARNED = 45.0, 30.0, 18.0
"""Mean PSNR in dB: of full precision; of the same quantized network, where codes of activations flip; of one learned again."""
_EQUAL = 99.0


@dataclass(frozen=True)
class Comparison:
    """One line: what was compared, as a sentence with its limit, and whether it is within."""

    line: str
    holds: bool


def codes_of(run: Path) -> dict[str, Tensor]:
    """The codes of all weights of a finished run, by quantizer."""
    config: dict[str, Any] = read_json(run / "config.json")
    runtime = {**config["runtime"], "device": "cpu"}
    attached = build.attached(config, runtime, run / "artifacts" / "reconstruct")
    with torch.no_grad():
        return {path: quantizer.codes(weight) for path, quantizer, weight, _ in attached.weight_pieces()}


def compare_codes(first: Path, second: Path) -> Comparison:
    """Of two runs."""
    ours, theirs = codes_of(first), codes_of(second)
    assert ours.keys() == theirs.keys() and ours
    total = sum(codes.numel() for codes in ours.values())
    differ = sum(int((theirs[path] != codes).sum()) for path, codes in ours.items())
    return Comparison(
        f"codes of weights: {differ} of {total} differ (at most {MOST_CODES:.0%})", differ <= MOST_CODES * total
    )


def compare_images(what: str, first: Path, second: Path, stage: str, least: float) -> Comparison:
    """The mean PSNR of images from the same noise; equal ones count 99 dB."""
    ours, theirs = (torch.from_numpy(load_images(artifact(run, stage))).double() for run in (first, second))
    error = (ours - theirs).square().flatten(1).mean(1).clamp_min(1e-12)
    psnr = float((10 * (255**2 / error).log10()).clamp_max(_EQUAL).mean())
    return Comparison(f"{what}: PSNR {psnr:.1f} dB over {len(ours)} (at least {least:.0f})", psnr >= least)


def artifact(run: Path, stage: str) -> Path:
    """The folder of a run's artifact; of stages with seeds the first of them."""
    folders = sorted(path for path in (run / "artifacts").iterdir() if path.name.partition("-")[0] == stage)
    return folders[0]


def compare_distances(first: dict[str, Any], second: dict[str, Any], side: str) -> Comparison:
    """The Fréchet distances of two results: their 95 % intervals overlap."""
    ends = [read_json(artifact(Path(one["run"]), side) / "numbers.json") for one in (first, second)]
    ours, theirs = (one["numbers"]["fd"] for one in ends)
    (low, high), (other_low, other_high) = (one["intervals"]["fd"] for one in ends)
    line = f"Fréchet distance ({side}): {ours:.4g} and {theirs:.4g} (95 % intervals overlap)"
    return Comparison(line, low <= other_high and other_low <= high)
