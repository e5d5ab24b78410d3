"""Quantization-aware training: another road from a calibrated network to a learned one, in the place of reconstruction."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import device_of
from dmq_cli.qat.data import DataSource
from dmq_cli.qat.loop import LOSSES, Distance, Loop
from dmq_cli.qat.problems import EQUAL, Distillation, NoiseOnData, Problem, Weighting
from dmq_cli.qat.ranks import together
from dmq_cli.qat.settings import Settings
from dmq_cli.qat.stand_ins import Gradients
from dmq_cli.qat.student import Student
from dmq_cli.qat.weights import WeightsKind
from dmq_cli.recon.calls import Batches, joined
from dmq_cli.recon.curves import Curve, save_curve
from dmq_cli.recon.learning import LossReport
from dmq_cli.recon.method import Refit
from dmq_cli.recon.scales import Scales
from dmq_cli.wrap import Attached, bake


@dataclass(frozen=True)
class Qat:
    """Trains the whole network with its quantizers.

    weights: how weights learn; gradients: how quantizers do; loss: `noise`, the error on noisy data, or `distill`, the difference from the
    full-precision network on the calibration set, which needs no data. num_samples: of that set, None for all.
    """

    settings: Settings
    weights: WeightsKind
    gradients: Gradients
    loss: Literal["noise", "distill"] = "noise"
    data: DataSource | None = None
    num_samples: int | None = None
    learns_rounding: ClassVar[bool] = False
    targets: ClassVar[None] = None

    def __post_init__(self) -> None:
        if self.loss not in ("noise", "distill"):
            raise ConfigError(f"train.loss={self.loss} is not known; use noise or distill.")
        if self.loss == "noise" and self.data is None:
            raise ConfigError(
                "The training learns from data, but none was given; use data=digits, data=images with data.path=FOLDER, or"
                " train.loss=distill, which needs none."
            )

    def refinements(self) -> tuple[()]:
        """See ReconMethod: none."""
        return ()

    def cost(self, samples: float) -> float:
        """See ReconMethod: forward and backward of every batch."""
        return 4.0 * self.settings.iterations * self.settings.batch_size

    def run(
        self, attached: Attached, data: Batches, num: int, work: Path, report: LossReport, targets: Path | None = None,
        refit: Refit | None = None, training_set: Path | None = None, distance: Distance | None = None,
        alphas_cumprod: Tensor | None = None,
    ) -> None:  # fmt: skip
        """Train, in place; see ReconMethod.run. training_set: the artifact of that name, of loss=noise; distance: measures candidates;
        alphas_cumprod: abar of the training timesteps, for settings.min_snr."""
        settings = self.settings
        problem = self._problem(attached, data, training_set)
        weighting = self._weighting(attached, alphas_cumprod)
        scales, weight_scales = (
            Scales(rate, decay=False, relative=settings.relative)
            for rate in (settings.scale_lr, settings.weight_scale_lr)
        )
        student = Student(attached, self.weights, self.gradients, settings.lr, scales, weight_scales, settings.products)
        with together(device_of(attached.adapter)) as ranks:
            loop = Loop(settings, student, problem, work, report, distance, ranks, weighting)
            loop.finish()
        student.finish()
        bake(attached)
        _save_curves(work, loop)

    def _weighting(self, attached: Attached, alphas_cumprod: Tensor | None) -> Weighting:
        if self.settings.min_snr is None:
            return EQUAL
        if alphas_cumprod is None:
            raise ConfigError("The training weighs timesteps, but was given no noise levels; use train.min_snr=null.")
        levels = alphas_cumprod.to(device_of(attached.adapter))
        return Weighting(attached.adapter.prediction.kind, levels, self.settings.min_snr)

    def _problem(self, attached: Attached, data: Batches, training_set: Path | None) -> Problem:
        if self.loss == "distill":
            return Distillation(attached, joined(data), self.settings.batch_size)
        if training_set is None:
            raise ConfigError("The training learns from data, but was given no training set; use train.loss=distill.")
        return NoiseOnData(attached, training_set)


def _save_curves(work: Path, loop: Loop) -> None:
    """Write the losses of training, of what was held out, and distances, as the curves of a reconstruction are."""
    held_out = Curve(1)
    held_out.points = [[candidate.step, candidate.loss] for candidate in loop.candidates]
    distances = Curve(1)
    distances.points = [[c.step, c.distance] for c in loop.candidates if c.distance is not None]
    for number, (name, curve) in enumerate(zip(LOSSES, (loop.curve, held_out, distances), strict=True)):
        if curve.points:
            save_curve(work, number, name, "network", curve)
