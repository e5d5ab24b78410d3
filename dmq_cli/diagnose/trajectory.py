"""Measure how quantization errors grow along a trajectory, and in which block they arise.

Full-precision, quantized and corrected samples are walked in lockstep from the same noise, one network call at a time and in batches,
so that only the statistics of a call are kept; those of the blocks are in watch.py. Every network runs on its own trajectory: a
block's error includes those of the blocks before it and of earlier steps, as in TFMQ-DM's Fig. II.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmq_cli.diagnose.watch import Medians, Watch, relative_error
from dmq_cli.models import Denoiser, home
from dmq_cli.ops import double, with_places
from dmq_cli.sampling import UNGUIDED, Correction, Guide, Scheduler, Step, batches, walk
from dmq_cli.wrap import Attached


@dataclass(frozen=True)
class Traced:
    """The result of `trace`. blocks, sites: in execution order; channels: layers whose channels were observed; tensors: by
    name, a row for each call, but in `block_cosine_each` for each sample; finals: the last sample of every side, (n, C, H, W),
    not decoded.
    """

    blocks: list[str]
    sites: list[str]
    channels: list[str]
    tensors: dict[str, Tensor]
    finals: dict[str, Tensor]


@dataclass
class Walks:
    """The Denoisers to walk, and how. full and quantized: of one network, that of `attached`; correction: None for none."""

    attached: Attached
    full: Denoiser
    quantized: Denoiser
    scheduler: Scheduler
    correction: Correction | None = None
    eta: float = 0.0
    guide: Guide = UNGUIDED
    dtype: torch.dtype = torch.float32
    sides: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self.sides = ["quantized"] if self.correction is None else ["quantized", "corrected"]

    def start(self, seeds: range) -> dict[str, Iterator[Step]]:
        """Start the walk of every side, from the same noise."""
        shape, eta = self.attached.adapter.sample_shape(), self.eta
        corrections = {"full": None, "quantized": None, "corrected": self.correction}
        return {
            side: walk(
                self.full if side == "full" else self.quantized, self.scheduler, seeds, shape, eta=eta,
                correction=corrections[side], guide=self.guide, dtype=self.dtype,
            )
            for side in ["full", *self.sides]
        }  # fmt: skip

    def same_input(self, step: Step, seeds: range) -> Tensor:
        """Estimate by the quantized network what the full-precision one estimated in this step, (B, C, ...)."""
        estimate, cond = self.guide.around(self.quantized), self.guide.cond(seeds, home(self.quantized))
        return self.guide.join(estimate(step.input, torch.tensor([step.timestep]), cond))


class Slopes:
    """The factor of every channel that brings one estimate nearest to another, over all samples: sum q e / sum q^2."""

    def __init__(self) -> None:
        self.products: Tensor = torch.zeros(())
        self.squares: Tensor = torch.zeros(())

    def add(self, quantized: Tensor, full: Tensor) -> None:
        """Add estimates (B, C, ...) of the same inputs."""
        quantized, full = (with_places(double(x)).transpose(0, 1).flatten(1) for x in (quantized, full))
        self.products = self.products + (quantized * full).sum(1)
        self.squares = self.squares + quantized.square().sum(1)

    def take(self) -> Tensor:
        """Return (C,) on the CPU; NaN where the quantized estimate is zero everywhere."""
        return (self.products / self.squares).cpu()


def trace(
    walks: Walks, seeds: range, batch_size: int, report: Callable[[int, int], None] = lambda done, total: None
) -> Traced:
    """Walk all sides in lockstep; report(done, total) after every call. See results/trace.py for the tensors, which are float32."""
    watch, errors, rows = Watch(walks.attached, len(seeds)), _Errors(walks), defaultdict[str, list[Tensor]](list)
    running = [(chunk, walks.start(chunk)) for chunk in batches(seeds, batch_size)]
    calls = len(walks.scheduler.timesteps)
    with watch.listening():
        for call in range(calls):
            slopes = Slopes()
            for chunk, sides in running:
                watch.next_batch(chunk.start - seeds.start, len(chunk))
                steps = _advance(watch, sides)
                errors.add(steps, last=call == calls - 1)
                watch.turn(None)
                slopes.add(walks.same_input(steps["full"], chunk), walks.guide.join(steps["full"].eps))
            tables = watch.take(walks.sides) | errors.take("trajectory", "eps") | {"slope": slopes.take()}
            for name, row in tables.items():
                rows[name].append(row)
            report(call + 1, calls)
    for name, row in errors.take("final").items():
        rows[name.replace("final", "trajectory")].append(row)
    whole = {name: torch.stack(stacked) for name, stacked in rows.items()} | watch.take_samples(walks.sides)
    tensors = {name: tensor.float() for name, tensor in whole.items()}
    finals = {side: torch.cat(parts) for side, parts in errors.finals.items()}
    return Traced(watch.blocks, watch.sites, watch.channels, tensors, finals)


def _advance(watch: Watch, sides: dict[str, Iterator[Step]]) -> dict[str, Step]:
    """Take one network call of every side of a batch."""
    steps = {}
    for side, steps_of in sides.items():
        watch.turn(side)
        steps[side] = next(steps_of)
    return steps


class _Errors:
    """Relative errors of the sampler's x and of the estimate against full precision, batch by batch."""

    def __init__(self, walks: Walks) -> None:
        self.walks, self.medians = walks, Medians()
        self.finals: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, steps: dict[str, Step], last: bool) -> None:
        """Add one call of one batch; last: add the final sample too."""
        full, join = steps["full"], self.walks.guide.join
        for side in self.walks.sides:
            side_step = steps[side]
            self.medians.add(("trajectory", side), relative_error(side_step.sample, full.sample))
            self.medians.add(("eps", side), relative_error(join(side_step.eps), join(full.eps)))
            if last:
                self.medians.add(("final", side), relative_error(side_step.following, full.following))
        for side, step in steps.items() if last else ():
            self.finals[side].append(step.following)

    def take(self, *kinds: str) -> dict[str, Tensor]:
        """Return the medians over all samples, by kind and side, and reset them."""
        return {f"{kind}.{side}": self.medians.take((kind, side)) for kind in kinds for side in self.walks.sides}
