"""One unit in one pass: its inputs, its loss, and the steps of its learners."""

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
from dmq_cli.models import device_of
from dmq_cli.ops import own_random
from dmq_cli.quant import TensorQuantizer
from dmq_cli.recon.calls import Batches
from dmq_cli.recon.capture import Captured
from dmq_cli.recon.curves import Curve
from dmq_cli.recon.fine import LayerErrors, mixed
from dmq_cli.recon.learners import Learner
from dmq_cli.recon.losses import channel_loss, lp_loss, mean_error
from dmq_cli.recon.passes import ACTIVATIONS, Pass
from dmq_cli.recon.units import Unit, layers_of
from dmq_cli.wrap import Attached, quantizing


class LossReport(Protocol):
    """Called at every iteration of a unit. where: its place among all, "weights: unit 3 of 23"; share: of all work that is done, in
    [0, 1].
    """

    def __call__(
        self, unit: str, iteration: int, iterations: int, loss: float, *, where: str = "", share: float | None = None
    ) -> None:
        """See above."""
        ...


def placed(report: LossReport, place: str, start: float, size: float) -> LossReport:
    """Make the report of a part of the work from that of the whole.

    place: put before the `where` of the part; start, size: the shares of all work before the part and in it, in [0, 1].
    """

    def placed_report(
        unit: str, iteration: int, iterations: int, loss: float, *, where: str = "", share: float | None = None
    ) -> None:
        part_share = iteration / iterations if share is None else share
        places = ", ".join(filter(None, (place, where)))
        report(unit, iteration, iterations, loss, where=places, share=start + size * part_share)

    return placed_report


@dataclass(frozen=True)
class Setting:
    """The settings that all units share; see Reconstruction.run."""

    attached: Attached
    data: Batches
    num: int
    work: Path
    report: LossReport
    batch_size: int
    seed: int = 0
    targets: Path | None = None

    def key(self, number: int) -> int:
        """Derive the seed of a unit's random numbers in a pass, so that a resumed run draws the same."""
        return self.seed * 1_000_003 + number


def start(attached: Attached, recon_pass: Pass, chosen: Mapping[str, TensorQuantizer]) -> list[Learner]:
    """Make the learners of these quantizers; [] where nothing can learn."""
    weights = {n: (q, w) for n, q, w, _ in attached.weight_pieces() if n in chosen}
    learners = [recon_pass.rounding.start(weights, recon_pass.iterations)] if recon_pass.rounding and weights else []
    scales = [q for n, q in chosen.items() if n not in weights]
    scale_learner = recon_pass.scales.start(scales, recon_pass.iterations) if recon_pass.scales else None
    return [*learners, scale_learner] if scale_learner else learners


def learn(setting: Setting, recon_pass: Pass, unit: Unit, number: int, learners: Sequence[Learner]) -> Curve:
    """Run all iterations of a unit and return its loss curve. number: of the unit, counted over all passes."""
    attached, key, curve = setting.attached, setting.key(number), Curve(recon_pass.iterations)
    captured = unit.capture(
        attached, setting.data, setting.num, setting.work / "tmp-capture",
        activations=recon_pass.activations, targets=setting.targets, reads_full=recon_pass.reads_full,
        reads_quantized=not recon_pass.unordered,
    )  # fmt: skip
    for layer in layers_of(attached, unit).values() if recon_pass.rounding else ():
        layer.baked = None
    with _learning(attached, recon_pass, unit, key) as errors:
        for iteration, rows in enumerate(draws(setting.num, setting.batch_size, recon_pass.iterations, key)):
            loss = _error(attached, unit, captured, rows, recon_pass, errors)
            value, error = descend(
                learners, loss, iteration, f"Reconstructing {unit.name}", "the learning rates of recon.passes"
            )
            setting.report(unit.name, iteration + 1, recon_pass.iterations, value)
            curve.add(error)
    for learner in learners:
        learner.finish()
    return curve


@contextlib.contextmanager
def _learning(attached: Attached, recon_pass: Pass, unit: Unit, key: int) -> Iterator[LayerErrors | None]:
    """Inside: quantizers and gradients on, random numbers seeded with key, dropping and layer errors as in the pass."""
    dropped = [q for name, q in attached.quantizers(*ACTIVATIONS).items() if unit.owns(name)]
    with contextlib.ExitStack() as stack:
        stack.callback(_drop, dropped, 0.0)
        _drop(dropped, recon_pass.drop)
        stack.enter_context(quantizing(attached, weights=True, activations=recon_pass.activations))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(own_random(device_of(attached.adapter)))
        torch.manual_seed(key)
        yield stack.enter_context(LayerErrors(attached, unit)) if recon_pass.fine else None


def _drop(quantizers: list[TensorQuantizer], part: float) -> None:
    for quantizer in quantizers:
        quantizer.drop = part


def _error(
    attached: Attached, unit: Unit, captured: Captured, rows: Tensor, recon_pass: Pass, errors: LayerErrors | None
) -> Tensor:
    inputs, target, timesteps = captured.batch(rows)
    full = captured.full(rows) if recon_pass.reads_full else {}
    with attached.at(timesteps):
        if errors is not None:
            errors.see_full(full)
        output = unit.run(attached, mixed(inputs, full, recon_pass.mix, recon_pass.mixed))
        loss = (lp_loss if errors is None else channel_loss)(output, target, recon_pass.p)
        if recon_pass.bias:
            loss = loss + recon_pass.bias * mean_error(output, target, timesteps)
        return loss if errors is None else loss + recon_pass.fine * errors.total(recon_pass.p)


def descend(learners: Sequence[Learner], loss: Tensor, iteration: int, what: str, lower: str) -> tuple[float, float]:
    """Take one step of every learner on the loss plus penalties, and return their sum and the loss alone.

    what, lower: words of the NumericsError that is raised where the loss is not finite.
    """
    penalties = [extra for learner in learners if (extra := learner.penalty(iteration)) is not None]
    alone, loss = loss.detach(), sum(penalties, start=loss)
    value, error = torch.stack([loss.detach(), alone]).tolist()  # together: the host waits for them once
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
    return value, error


def draws(total: int, batch_size: int, iterations: int, key: int) -> Iterator[Tensor]:
    """Draw the row numbers of every iteration, (batch_size,) each: a function of the arguments only."""
    generator = torch.Generator().manual_seed(key)
    for _ in range(iterations):
        yield torch.randperm(total, generator=generator)[:batch_size]
