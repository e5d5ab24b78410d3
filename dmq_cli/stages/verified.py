"""Proof that a deployed network is the simulated one: its integers, its codes, its images, and what really runs in integers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmq_cli.deploy.backends import BACKENDS
from dmq_cli.deploy.lower import lower
from dmq_cli.deploy.processor import instruction_set, weight_limit
from dmq_cli.deploy.stored import equal, integers_of
from dmq_cli.errors import ArtifactError
from dmq_cli.metrics import Protocol
from dmq_cli.metrics.psnr import Psnr
from dmq_cli.results.images import Pixels, load_images
from dmq_cli.sampling import parse_ranges, show
from dmq_cli.stages import build
from dmq_cli.stages.layerwise import Differences, compare_layers
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.targets import allowed, check_targets
from dmq_cli.stages.verbs import graph
from dmq_cli.store import read_json

IMAGES = 64
LEAST_PSNR = 40.0
_EQUAL = 60.0
MOST = 1e-4
"""Of all codes, and of all elements of outputs: those that another order of the same float32 operations rounds otherwise."""


@dataclass(frozen=True)
class Proof:
    """What was compared. weights: integers of weights that are in the export, and all; layers: see Differences; psnr: mean over images in dB; products: those of integers as the network runs, and
    all; share: of multiplications in integers, in 0..1, as the network runs; least_share: what was asked for."""

    backend: str
    instruction_set: str
    weights: tuple[int, int]
    layers: Differences
    psnr: float
    images: int
    products: tuple[int, int]
    share: float
    least_share: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether the deployed network counts as the simulated one, with as much in integers as was asked for."""
        layers = self.layers
        few = layers.flips <= MOST * layers.codes and layers.farthest <= 1 and layers.far <= MOST * layers.outputs
        same = self.weights[0] == self.weights[1]
        return same and few and self.psnr >= LEAST_PSNR and self.share >= self.least_share

    def lines(self) -> str:
        """A few lines for the terminal."""
        (integer, every), layers = self.products, self.layers
        least = f" (at least {self.least_share:.1%})" if self.least_share else ""
        verdict = "the same network" if self.holds else "NOT the same network, or less in integers than was asked for"
        return "\n".join(
            (
                f"  weights   {self.weights[0]} of {self.weights[1]} integers are those in the export (all must)",
                f"  codes     {layers.flips} of {layers.codes} differ, by at most {layers.farthest} (at most {MOST:.0e} may, by 1)",
                f"  outputs   {layers.far} of {layers.outputs} are off by more than 1/255 of their range (at most {MOST:.0e} may)",
                f"  images    PSNR {self.psnr:.1f} dB over {self.images} (at least {LEAST_PSNR:.0f} dB)",
                f"  integers  {integer} of {every} products as {self.backend} runs them ({self.instruction_set}), {self.share:.1%} of all"
                f" multiplications{least}",
                f"  {verdict}",
            )
        )


def verify_deployed(run: Path, backend: str, least_share: float = 0.0) -> Proof:
    """Compare the network of a run as it is simulated and as the backend runs it; what is missing for that is computed.

    least_share: of multiplications in integers, in 0..1. Raises ArtifactError for a folder that is no run, ConfigError for a backend
    that does not fit.
    """
    config = _config(run, backend)
    stages = graph(config, Progress(quiet=True))
    deployed = load_images(stages.ensure("sample", config))
    plain = {name: value for name, value in config.items() if name not in ("backend", "deployed", "format")}
    simulated = load_images(stages.ensure("sample", {**plain, "format": "diffusers"}))
    exported = stages.ensure("export", config)
    attached = build.attached(config, config["runtime"], stages.ensure("reconstruct", config))
    lowered = lower(attached, weight_limit(), BACKENDS[backend].form)
    weights = equal(integers_of(lowered), BACKENDS[backend].integers(exported))
    layers = compare_layers(
        attached, lowered, BACKENDS[backend].layers(exported, lowered),
        build.calibration_by_step(stages.ensure("calibset", config), IMAGES),
    )  # fmt: skip
    ran = BACKENDS[backend].ran(
        exported, min(len(deployed), config["runtime"]["batch_size"]), config["runtime"]["threads"]
    )
    return Proof(
        backend, instruction_set(), weights, layers, _psnr(deployed, simulated, build.make(config["protocol"])), len(deployed),
        (ran.integer, ran.every), ran.share, least_share,
    )  # fmt: skip


def _config(run: Path, backend: str) -> dict[str, Any]:
    if not (run / "config.json").is_file():
        raise ArtifactError(
            f"{run} was to be verified with backend={backend}, but is no run folder; give one of outputs/runs."
        )
    config = read_json(run / "config.json")
    check_targets(config, allowed())
    seeds = parse_ranges(config["seeds"])[0][:IMAGES]
    return prepare({**config, "stage": "sample", "backend": backend, "seeds": show(seeds), "trace": None})


def _psnr(first: Pixels, second: Pixels, protocol: Protocol) -> float:
    """Mean PSNR of pairs of images in dB, as results have it, but that equal ones count 60: they would hide others in a mean."""
    measure = Psnr().pairwise(first.shape[1:], protocol)
    return float(measure(torch.from_numpy(first[:]), torch.from_numpy(second[:])).clamp(max=_EQUAL).mean())
