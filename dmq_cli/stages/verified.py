"""Proof that a deployed network is the simulated one: its integers, its codes, its images, and what really runs in integers."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from dmq_cli.deploy.backends import BACKENDS
from dmq_cli.deploy.lower import IntegerLayer, Piece, lower
from dmq_cli.deploy.processor import instruction_set, weight_limit
from dmq_cli.errors import ArtifactError
from dmq_cli.metrics import Protocol
from dmq_cli.metrics.psnr import Psnr
from dmq_cli.models import Call
from dmq_cli.results.images import Pixels, load_images
from dmq_cli.sampling import parse_ranges, show
from dmq_cli.stages import build
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.targets import allowed, check_targets
from dmq_cli.stages.verbs import graph
from dmq_cli.store import read_json
from dmq_cli.wrap import Attached, QuantDenoiser, bake, freeze

IMAGES = 64
LEAST_PSNR = 40.0
_EQUAL = 60.0
MOST_FLIPS = 1e-4
"""Of all codes of activations: those that another order of the same float32 operations rounds to the neighbour."""


@dataclass(frozen=True)
class Proof:
    """What was compared. flips: differing codes of activations and all; farthest: the greatest difference of a code; psnr: mean over
    images in dB; products: integer ones as the network runs, and all with weights; share: of multiplications, in 0..1."""

    backend: str
    instruction_set: str
    flips: int
    codes: int
    farthest: int
    psnr: float
    images: int
    products: tuple[int, int]
    share: float

    @property
    def holds(self) -> bool:
        """Whether the deployed network counts as the simulated one."""
        few = self.flips <= MOST_FLIPS * self.codes and self.farthest <= 1
        return few and self.psnr >= LEAST_PSNR

    def lines(self) -> str:
        """A few lines for the terminal."""
        integer, every = self.products
        return "\n".join(
            (
                f"  codes     {self.flips} of {self.codes} differ, by at most {self.farthest} (at most {MOST_FLIPS:.0e} may, by 1)",
                f"  images    PSNR {self.psnr:.1f} dB over {self.images} (at least {LEAST_PSNR:.0f} dB)",
                f"  integers  {integer} of {every} layers' products as {self.backend} runs them ({self.instruction_set}), {self.share:.1%} of all"
                " multiplications",
                f"  {'the same network' if self.holds else 'NOT the same network'}",
            )
        )


def verify_deployed(run: Path, backend: str) -> Proof:
    """Compare the network of a run as it is simulated and as the backend runs it; what is missing for that is computed.

    Raises ArtifactError for a folder that is no run, ConfigError for a backend that does not fit.
    """
    config = _config(run, backend)
    stages = graph(config, Progress(quiet=True))
    deployed = load_images(stages.ensure("sample", config))
    plain = {name: value for name, value in config.items() if name not in ("backend", "deployed", "format")}
    simulated = load_images(stages.ensure("sample", {**plain, "format": "diffusers"}))
    exported = stages.ensure("export", config)
    about = read_json(exported / "dmq.json")["about"]
    attached = build.attached(config, config["runtime"], stages.ensure("reconstruct", config))
    calls = build.calibration(stages.ensure("calibset", config), 16, IMAGES)
    flips, codes, farthest = code_flips(attached, calls, BACKENDS[backend].piece)
    return Proof(
        backend, instruction_set(), flips, codes, farthest, _psnr(deployed, simulated, build.make(config["protocol"])), len(deployed),
        BACKENDS[backend].product_counts(exported), about["integer_share"],
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


@torch.no_grad()
def code_flips(attached: Attached, calls: Iterable[Call], piece: type[Piece]) -> tuple[int, int, int]:
    """Count the codes of layers' inputs that the deployed form rounds otherwise than the simulated one, from the same float32 inputs.

    calls: batches of the network's inputs; piece: the deployed form. Returns differing codes, all codes, and the greatest difference.
    """
    lowered = lower(attached, weight_limit(), piece)
    freeze(attached)
    bake(attached)
    counts = [0, 0, 0]

    def compare(deployed: IntegerLayer, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        for difference in deployed.code_differences(inputs[0]):
            counts[0] += int((difference > 0.5).sum())
            counts[1] += difference.numel()
            counts[2] = max(counts[2], round(float(difference.max())))

    layers = {name: cast(IntegerLayer, lowered.attached.model.get_submodule(name)) for name in lowered.integer}
    hooks = [
        attached.model.get_submodule(name).register_forward_pre_hook(functools.partial(compare, layer))
        for name, layer in layers.items()
    ]
    for sample, timestep, *cond in calls:
        with lowered.attached.at(timestep):
            QuantDenoiser(attached)(sample, timestep, *cond)
    for hook in hooks:
        hook.remove()
    return counts[0], counts[1], counts[2]
