"""One unit in one pass: what it reads, its loss, and the steps of its learners."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dmq_cli.errors import NumericsError
from dmq_cli.quant import TensorQuantizer
from dmq_cli.recon.calls import Batches
from dmq_cli.recon.capture import Captured
from dmq_cli.recon.curves import Curve
from dmq_cli.recon.fine import LayerErrors, mixed
from dmq_cli.recon.learners import Learner
from dmq_cli.recon.losses import lp_loss
from dmq_cli.recon.passes import ACTIVATIONS, Pass
from dmq_cli.recon.units import Unit, layers_of
from dmq_cli.wrap import Attached, quantizing


class LossReport(Protocol):
    """Called at every iteration of a unit. where: its place among all, "weights: unit 3 of 23"; share: how much of all work is done, in [0, 1]."""

    def __call__(
        self, unit: str, iteration: int, iterations: int, loss: float, *, where: str = "", share: float | None = None
    ) -> None: ...


def placed(report: LossReport, place: str, start: float, size: float) -> LossReport:
    """The report of a part of the work, `size` of all, that begins when `start` of it is done. place: put before what it says itself."""

    def told(
        unit: str, iteration: int, iterations: int, loss: float, *, where: str = "", share: float | None = None
    ) -> None:
        inside = iteration / iterations if share is None else share
        whole = ", ".join(filter(None, (place, where)))
        report(unit, iteration, iterations, loss, where=whole, share=start + size * inside)

    return told


@dataclass(frozen=True)
class Setting:
    """What all units share; see Reconstruction.run."""

    attached: Attached
    data: Batches
    num: int
    work: Path
    report: LossReport
    batch_size: int
    seed: int = 0
    targets: Path | None = None

    def key(self, number: int) -> int:
        """The seed of all random numbers of a unit in a pass, so that a resumed run draws the same."""
        return self.seed * 1_000_003 + number


def start(attached: Attached, one: Pass, chosen: Mapping[str, TensorQuantizer]) -> list[Learner]:
    """The learners of these quantizers; none where nothing can learn."""
    weights = {n: (q, w) for n, q, w, _ in attached.weight_pieces() if n in chosen}
    learners = [one.rounding.start(weights, one.iterations)] if one.rounding and weights else []
    scales = [q for n, q in chosen.items() if n not in weights]
    found = one.scales.start(scales, one.iterations) if one.scales else None
    return [*learners, found] if found else learners


def learn(setting: Setting, one: Pass, unit: Unit, number: int, learners: Sequence[Learner]) -> Curve:
    """All iterations of a unit; how its loss went. number: of the unit among all passes."""
    attached, key, curve = setting.attached, setting.key(number), Curve(one.iterations)
    captured = unit.capture(
        attached, setting.data, setting.num, setting.work / "tmp-capture",
        activations=one.activations, targets=setting.targets, reads_full=one.reads_full,
    )  # fmt: skip
    for layer in layers_of(attached, unit).values() if one.rounding else ():
        layer.baked = None
    with _learning(attached, one, unit, key) as errors:
        for iteration, rows in enumerate(draws(setting.num, setting.batch_size, one.iterations, key)):
            loss = _error(attached, unit, captured, rows, one, errors)
            value = descend(
                learners, loss, iteration, f"Reconstructing {unit.name}", "the learning rates of recon.passes"
            )
            setting.report(unit.name, iteration + 1, one.iterations, value)
            curve.add(float(loss.detach()))
    for learner in learners:
        learner.finish()
    return curve


@contextlib.contextmanager
def _learning(attached: Attached, one: Pass, unit: Unit, key: int) -> Iterator[LayerErrors | None]:
    """Quantizers on, gradients, random numbers that begin at the key, dropping and the layers' errors as the pass asks."""
    dropped = [q for name, q in attached.quantizers(*ACTIVATIONS).items() if unit.owns(name)]
    with contextlib.ExitStack() as stack:
        stack.callback(_drop, dropped, 0.0)
        _drop(dropped, one.drop)
        stack.enter_context(quantizing(attached, weights=True, activations=one.activations))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(torch.random.fork_rng())
        torch.manual_seed(key)
        yield stack.enter_context(LayerErrors(attached, unit)) if one.fine else None


def _drop(quantizers: list[TensorQuantizer], part: float) -> None:
    for quantizer in quantizers:
        quantizer.drop = part


def _error(
    attached: Attached, unit: Unit, captured: Captured, rows: Tensor, one: Pass, errors: LayerErrors | None
) -> Tensor:
    inputs, target, timesteps = captured.batch(rows)
    full = captured.full(rows) if one.reads_full else {}
    with attached.at(timesteps):
        if errors is not None:
            errors.see_full(full)
        loss = lp_loss(unit.run(attached, mixed(inputs, full, one.mix)), target, one.p)
        return loss if errors is None else loss + one.fine * errors.total(one.p)


def descend(learners: Sequence[Learner], loss: Tensor, iteration: int, what: str, lower: str) -> float:
    """One step of every learner down the loss and its penalty; the sum of both.

    what, lower: for the NumericsError that a loss which is not finite raises.
    """
    penalties = [extra for learner in learners if (extra := learner.penalty(iteration)) is not None]
    loss = sum(penalties, start=loss)
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NumericsError(f"{what} ended in a loss of {value}; lower {lower}.")
    for learner in learners:
        learner.seen(value)
        learner.optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    for learner in learners:
        learner.optimizer.step()
        learner.settle()
        if learner.scheduler is not None:
            learner.scheduler.step()
    return value


def draws(total: int, batch_size: int, iterations: int, key: int) -> Iterator[Tensor]:
    """Row numbers of every iteration: a function of the arguments only."""
    generator = torch.Generator().manual_seed(key)
    for _ in range(iterations):
        yield torch.randperm(total, generator=generator)[:batch_size]
