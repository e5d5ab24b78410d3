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

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import Denoiser, device_of
from dmq_cli.ops import own_random
from dmq_cli.qat import checkpoint
from dmq_cli.qat.problems import EQUAL, Batch, Problem, Weighting
from dmq_cli.qat.ranks import Ranks, check_together, parallel, told
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
        if ranks.size > settings.batch_size:
            raise ConfigError(
                f"A training of {ranks.size} processes was to share batches of {settings.batch_size}; start at most so many, or give a larger"
                " recon.settings.batch_size."
            )
        self.rates = student.rates()
        self.parameters = [parameter for group, _ in self.rates for parameter in group]
        groups = [{"params": group, "lr": rate} for group, rate in self.rates]
        self.optimizer = torch.optim.AdamW(groups, eps=settings.adam_eps, weight_decay=settings.weight_decay)
        self.average = [parameter.detach().clone() for parameter in self.parameters]
        self.best = [value.clone() for value in self.average]
        self.step, self.candidates, self.curve = 0, list[Candidate](), Curve(settings.iterations)
        folder = told(work, ranks)
        checkpoint.restore(self, folder)
        check_together(self.step, folder, ranks)
        self.network = parallel(student, ranks)

    def finish(self) -> None:
        """Take the remaining steps, and leave the best candidate in the student."""
        settings = self.settings
        while self.step < settings.iterations:
            loss = self._advance()
            if not self.ranks.first:
                continue
            self.report("images", self.step * settings.batch_size, settings.iterations * settings.batch_size, loss)
            if self.step in settings.candidate_steps:
                self._judge()
            if self.step % settings.save_every == 0 or self.step == settings.iterations:
                checkpoint.save(self)
        with torch.no_grad():
            for parameter, value in zip(self.parameters, self.best, strict=True):
                parameter.copy_(value)

    def _advance(self) -> float:
        """Take a step; the loss of its batch. Raises NumericsError for gradients that are not finite, and takes no step then."""
        self._set_rates()
        self.student.stand_ins.progress(self.step / self.settings.iterations)
        self.optimizer.zero_grad(set_to_none=True)
        share, loss = self._gradients()
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self.settings.clip))
        if not math.isfinite(loss + norm):
            raise self._diverged(share, loss, norm)
        self.optimizer.step()
        self.student.settle()
        self.step += 1
        self._update_average()
        self.curve.add(loss)
        return loss

    def _set_rates(self) -> None:
        schedule = self.settings.schedule(self.step)
        for group, (_, rate) in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * schedule

    def _gradients(self) -> tuple[Batch, float]:
        """Gradients of the next batch; this process's share of it and the loss of that."""
        settings = self.settings
        key = settings.seed * 1_000_003 + self.step
        with own_random(device_of(self.student.attached.adapter)), torch.enable_grad():
            torch.manual_seed(key * self.ranks.size + self.ranks.rank)
            batch = self.problem.batch(settings.batch_size, torch.Generator().manual_seed(key))
            share = batch.rows(self.ranks.share(torch.arange(settings.batch_size)))
            return share, self._backward(share)

    def _backward(self, share: Batch) -> float:
        """Gradients of this process's share of a batch, in `accumulate` parts; the loss of that share.

        Those of all processes are averaged, so every sample weighs as much as in one process, whatever the sizes of the shares.
        """
        total, count = 0.0, len(share.sample)
        for rows in self._parts(count):
            weight = len(rows) * self.ranks.size / self.settings.batch_size
            loss = weight * self._error(self.network, share.rows(rows))
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach()) / self.ranks.size
        penalty = self.student.stand_ins.penalty()
        if penalty is not None:
            penalty.backward()  # type: ignore[no-untyped-call]
        return total * self.settings.batch_size / count

    def _parts(self, count: int) -> tuple[Tensor, ...]:
        """Rows of the parts of a share: as many parts in every process, as each of them averages its gradients with the others."""
        least = self.settings.batch_size // self.ranks.size
        return torch.arange(count).tensor_split(min(self.settings.accumulate, least))

    def _error(self, network: nn.Module, batch: Batch) -> Tensor:
        return self.weighting.loss(network(batch.sample, batch.timestep, batch.cond), batch)

    def _diverged(self, share: Batch, loss: float, norm: float) -> NumericsError:
        """The error of a step that is not taken, so that every checkpoint is from before it."""
        parts = (share.rows(rows) for rows in self._parts(len(share.sample)))
        broken = next(filter(None, (first_broken(self.student, part) for part in parts)), None)
        layer = f"{broken} was the first layer" if broken else "no layer here was one"
        return NumericsError(
            f"Training ended at step {self.step + 1} in a loss of {loss} and gradients of norm {norm}, and {layer} with an output that is"
            " not finite; begin again with a lower train.lr, recon.settings.scale_lr or recon.settings.weight_scale_lr (the last checkpoint of"
            " these is kept)."
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


def first_broken(student: Student, batch: Batch) -> str | None:
    """The name of the first layer, in the order of calls, with an output that is not finite; None without one."""
    broken: list[str] = []
    handles = [layer.register_forward_hook(_seen(name, broken)) for name, layer in student.attached.layers().items()]  # type: ignore[attr-defined]
    try:
        with torch.no_grad():
            student(batch.sample, batch.timestep, batch.cond)
    finally:
        for handle in handles:
            handle.remove()
    return next(iter(broken), None)


def _seen(name: str, broken: list[str]) -> Callable[[nn.Module, object, Tensor], None]:
    return lambda layer, inputs, output: None if bool(torch.isfinite(output).all()) else broken.append(name)
