"""The steps of a training: gradients, averages, candidates, checkpoints. A training that was killed ends in the bytes of one that was not.

Everything that is random in a step follows from the seed and the number of the step.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from dmq_cli.errors import NumericsError
from dmq_cli.models import Denoiser, device_of
from dmq_cli.ops import own_random
from dmq_cli.qat import checkpoint
from dmq_cli.qat.problems import EQUAL, Batch, Problem, Weighting
from dmq_cli.qat.ranks import Ranks, parallel, told
from dmq_cli.qat.settings import Settings
from dmq_cli.qat.student import Student
from dmq_cli.recon.curves import Curve
from dmq_cli.recon.learning import LossReport

Distance = Callable[[Denoiser], float]
"""How far the images of a quantized network are from those of full precision; less is nearer, below zero too."""
JUDGED = "5000000-5000063"
"""The seeds of the images that this is measured on."""
ALONE = Ranks()
LOSSES = ("training", "held out", "distance")


@dataclass(frozen=True)
class Candidate:
    """The average of the weights after a step, and how good it is. distance: None where nothing measures it."""

    step: int
    loss: float
    distance: float | None


class Loop:
    """A training that can stop and go on."""

    def __init__(
        self, settings: Settings, student: Student, problem: Problem, work: Path, report: LossReport,
        distance: Distance | None = None, ranks: Ranks = ALONE, weighting: Weighting = EQUAL,
    ) -> None:  # fmt: skip
        self.settings, self.student, self.problem, self.work, self.report = settings, student, problem, work, report
        self.distance, self.ranks, self.weighting = distance, ranks, weighting
        self.rates = student.rates()
        self.parameters = [parameter for group, _ in self.rates for parameter in group]
        groups = [{"params": group, "lr": rate} for group, rate in self.rates]
        self.optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.best = [value.clone() for value in self.average]
        self.step, self.candidates, self.curve = 0, list[Candidate](), Curve(settings.iterations)
        checkpoint.restore(self, told(work, ranks))
        self.network = parallel(student, ranks)

    def finish(self) -> None:
        """Take the remaining steps, and leave the best candidate in the student."""
        settings = self.settings
        while self.step < settings.iterations:
            loss = self._advance()
            if not self.ranks.first:
                continue
            self.report("network", self.step, settings.iterations, loss)
            if self.step in settings.candidate_steps:
                self._judge()
            if self.step % settings.save_every == 0 or self.step == settings.iterations:
                checkpoint.save(self)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.best, strict=True):
                parameter.copy_(value)

    def _advance(self) -> float:
        settings, schedule = self.settings, self.settings.schedule(self.step)
        for group, (_, rate) in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule
        self.student.stand_ins.progress(self.step / settings.iterations)
        self.optimizer.zero_grad(set_to_none=True)
        key = settings.seed * 1_000_003 + self.step
        with own_random(device_of(self.student.attached.adapter)), torch.enable_grad():
            torch.manual_seed(key + self.ranks.rank)
            loss = self._backward(self.problem.batch(settings.batch_size, torch.Generator().manual_seed(key)))
        nn.utils.clip_grad_norm_(self.parameters, settings.clip)
        self.optimizer.step()
        self.student.settle()
        self.step += 1
        self._update_average()
        self.curve.add(loss)
        return loss

    def _backward(self, batch: Batch) -> float:
        """Gradients of the loss of a batch, of which this process takes its share in `accumulate` parts; the loss of that share."""
        share = batch.rows(self.ranks.share(torch.arange(len(batch.sample))))
        total, size = 0.0, math.ceil(len(share.sample) / self.settings.accumulate)
        for rows in torch.split(torch.arange(len(share.sample)), size):
            part = share.rows(rows)
            loss = len(rows) / len(share.sample) * self._error(self.network, part)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise self._diverged(part, value)
            loss.backward()  # type: ignore[no-untyped-call]
            total += value
        penalty = self.student.stand_ins.penalty()
        if penalty is not None:
            penalty.backward()  # type: ignore[no-untyped-call]
        return total

    def _error(self, network: nn.Module, batch: Batch) -> Tensor:
        return self.weighting.loss(network(batch.sample, batch.timestep, batch.cond), batch)

    def _diverged(self, batch: Batch, loss: float) -> NumericsError:
        layer = first_broken(self.student, batch)
        return NumericsError(
            f"Training ended at step {self.step + 1} in a loss of {loss}, and {layer} was the first layer with an output that is not finite;"
            " lower the learning rates of recon (the last checkpoint is kept)."
        )

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.settings.ema, (1 + self.step) / (10 + self.step))
        for mean, parameter in zip(self.average, self.parameters, strict=True):
            mean.lerp_(parameter, 1 - decay)

    @torch.no_grad()
    def _judge(self) -> None:
        """Measure the average, and keep it if it is the best candidate so far."""
        with self._averaged(), self.student.stand_ins.rounding():
            losses = [
                (len(b.sample), float(self._error(self.student, b)))
                for b in self.problem.held_out(self.settings.batch_size)
            ]
            loss = sum(count * value for count, value in losses) / sum(count for count, _ in losses)
            distance = None if self.distance is None else self.distance(StudentDenoiser(self.student))
        self.candidates.append(Candidate(self.step, loss, distance))
        if self.candidates[-1] == min(self.candidates, key=self.settings.merit):
            self.best = [value.clone() for value in self.average]

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Inside, the student has the averages for parameters."""
        before = [parameter.data for parameter in self.parameters]
        try:
            for parameter, value in zip(self.parameters, self.average, strict=True):
                parameter.data = value
            yield
        finally:
            for parameter, value in zip(self.parameters, before, strict=True):
                parameter.data = value


class StudentDenoiser:
    """A student as a Denoiser."""

    def __init__(self, student: Student) -> None:
        self.student = student

    @property
    def device(self) -> torch.device:
        """See `models.home`."""
        return device_of(self.student.attached.adapter)

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser."""
        adapter = self.student.attached.adapter
        output = self.student(sample.to(self.device), timestep.to(self.device), cond).to(sample)
        return adapter.prediction.noise(output, sample, timestep)


def first_broken(student: Student, batch: Batch) -> str:
    """The name of the first layer, in the order of calls, with an output that is not finite; `none` if only the sum overflows."""
    broken: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        return lambda layer, inputs, output: None if bool(torch.isfinite(output).all()) else broken.append(name)

    handles = [layer.register_forward_hook(watch(name)) for name, layer in student.attached.layers().items()]  # type: ignore[attr-defined]
    try:
        with torch.no_grad():
            student(batch.sample, batch.timestep, batch.cond)
    finally:
        for handle in handles:
            handle.remove()
    return broken[0] if broken else "none"
