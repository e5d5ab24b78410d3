"""How quantization errors grow along a trajectory, and from which block they come.

Full-precision, quantized and corrected samples are walked in lockstep from the same noise, one network call at a time and in batches,
so that nothing of a call outlives it but its statistics; those of the blocks are in watching.py. Every network runs on its own trajectory:
an error of a block is its own and what it inherits, from the blocks before it and from earlier steps, as in TFMQ-DM's Fig. II.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dmq_cli.diagnose.watch import Medians, Watch, relative_error
from dmq_cli.models import Denoiser
from dmq_cli.sampling import UNGUIDED, Correction, Guide, Scheduler, Step, batches, walk
from dmq_cli.wrap import Attached


@dataclass(frozen=True)
class Traced:
    """blocks, sites: in execution order; channels: layers whose channels were watched; tensors: by name, a row for each call,
    but in `block_cosine_each` for each sample; finals: the last sample of every side, (n, C, H, W), not decoded.
    """

    blocks: list[str]
    sites: list[str]
    channels: list[str]
    tensors: dict[str, Tensor]
    finals: dict[str, Tensor]


@dataclass
class Walks:
    """What walks from where. full and quantized: of one network, that of `attached`; correction: None for none."""

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
        """Every side before its first call, from the same noise."""
        shape, eta = self.attached.adapter.sample_shape(), self.eta
        corrections = {"full": None, "quantized": None, "corrected": self.correction}
        return {
            side: walk(
                self.full if side == "full" else self.quantized, self.scheduler, seeds, shape, eta=eta,
                correction=corrections[side], guide=self.guide, dtype=self.dtype,
            )
            for side in ["full", *self.sides]
        }  # fmt: skip


def trace(
    walks: Walks, seeds: range, batch_size: int, report: Callable[[int, int], None] = lambda done, total: None
) -> Traced:
    """Walk all of them; report(done, total) after every call. See stages/trace.py for the tensors, which are float32."""
    watch, errors, rows = Watch(walks.attached, len(seeds)), _Errors(walks), defaultdict[str, list[Tensor]](list)
    running = [(chunk, walks.start(chunk)) for chunk in batches(seeds, batch_size)]
    calls = len(walks.scheduler.timesteps)
    with watch.listening():
        for call in range(calls):
            for chunk, sides in running:
                watch.next_batch(chunk.start - seeds.start, len(chunk))
                errors.add(_advance(watch, sides), last=call == calls - 1)
            for name, row in (watch.take(walks.sides) | errors.take("trajectory", "eps")).items():
                rows[name].append(row)
            report(call + 1, calls)
    for name, row in errors.take("final").items():
        rows[name.replace("final", "trajectory")].append(row)
    whole = {name: torch.stack(each) for name, each in rows.items()} | watch.take_samples(walks.sides)
    tensors = {name: tensor.float() for name, tensor in whole.items()}
    finals = {side: torch.cat(parts) for side, parts in errors.finals.items()}
    return Traced(watch.blocks, watch.sites, watch.channels, tensors, finals)


def _advance(watch: Watch, sides: dict[str, Iterator[Step]]) -> dict[str, Step]:
    """One call of every side of a batch."""
    steps = {}
    for side, steps_of in sides.items():
        watch.turn(side)
        steps[side] = next(steps_of)
    return steps


class _Errors:
    """How far the sampler's x and the estimate are from full precision, batch by batch."""

    def __init__(self, walks: Walks) -> None:
        self.walks, self.medians = walks, Medians()
        self.finals: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, steps: dict[str, Step], last: bool) -> None:
        """One call of one batch; of the last call what follows it, too."""
        full, join = steps["full"], self.walks.guide.join
        for side in self.walks.sides:
            own = steps[side]
            self.medians.add(("trajectory", side), relative_error(own.sample, full.sample))
            self.medians.add(("eps", side), relative_error(join(own.eps), join(full.eps)))
            if last:
                self.medians.add(("final", side), relative_error(own.following, full.following))
        for side, step in steps.items() if last else ():
            self.finals[side].append(step.following)

    def take(self, *kinds: str) -> dict[str, Tensor]:
        """The medians over all samples, by kind and side; they start anew."""
        return {f"{kind}.{side}": self.medians.take((kind, side)) for kind in kinds for side in self.walks.sides}
