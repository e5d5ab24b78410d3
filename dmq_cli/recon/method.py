"""The interface of every reconstruction to the stages that run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, TypedDict

from torch import Tensor

from dmq_cli.recon.calls import Batches
from dmq_cli.recon.learning import LossReport
from dmq_cli.wrap import Attached

Refit = Callable[[], None]
"""Takes the ranges of all activations from the network whose weights are quantized."""


class Share(Protocol):
    """Has the units of a pass learned by several processes."""

    def __call__(
        self, name: str, units: int, state: Mapping[str, Tensor], learn: Callable[[int, Path], None], work: Path
    ) -> None:
        """Have every unit learned by one of them, from this state of all quantizers, and bring what `learn(index, folder)` wrote to `work`."""
        ...


class Targets(TypedDict):
    """Full-precision outputs that are computed once for all methods. units: blocks or layers; num_samples: calibration samples
    (None: all); inputs: whether the units' inputs are needed too."""

    units: str
    num_samples: int | None
    inputs: bool


class ReconMethod(Protocol):
    """Changes the quantizers, and maybe the weights, of a calibrated network. Its random draws follow from its own fields."""

    @property
    def num_samples(self) -> int | None:
        """Calibration samples used; None: all."""
        ...

    @property
    def learns_rounding(self) -> bool:
        """Whether it learns how weights are rounded."""
        ...

    @property
    def targets(self) -> Targets | None:
        """The full-precision outputs that it needs; None for none."""
        ...

    def run(
        self, attached: Attached, data: Batches, num: int, work: Path, report: LossReport, targets: Path | None,
        refit: Refit | None = None,
    ) -> None:  # fmt: skip
        """Learn, in place.

        data: one pass over num calibration samples in batches; report: called at every iteration, see LossReport; targets:
        folder of the targets it needs; refit: called once where learned weights stand and activations come next. Files `tmp-*`
        in `work` survive a kill, and the next attempt must end in the same bytes. Raises NumericsError if a loss diverges.
        """
        ...

    def refinements(self) -> Sequence[ReconMethod]:
        """Reconstructions to run after it, in order, each on calibration inputs drawn from the network at that point."""
        ...

    def cost(self, samples: float) -> float:
        """The work of `run`, in network calls on one sample. samples: rows of the calibration set."""
        ...
