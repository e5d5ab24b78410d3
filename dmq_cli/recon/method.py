"""What every reconstruction offers to the stages that run it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypedDict

from dmq_cli.recon.calls import Batches
from dmq_cli.recon.learning import LossReport
from dmq_cli.wrap import Attached


class Targets(TypedDict):
    """What of the full-precision network is computed once for all methods: the outputs of which units (blocks or layers), of
    how many calibration samples (None: all), and whether their inputs too."""

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
        """What it reads of the full-precision network; None for nothing."""
        ...

    def run(
        self, attached: Attached, data: Batches, num: int, work: Path, report: LossReport, targets: Path | None
    ) -> None:
        """Learn, in place.

        data: one pass over num calibration samples in batches; report: see LossReport; targets: where those asked for lie. What is kept in `work` as `tmp-*` is there again in the next attempt after
        a kill, which ends in the same bytes. Raises NumericsError if a loss diverges.
        """
        ...

    def refinements(self) -> Sequence[ReconMethod]:
        """What is run after it, one after the other, each on calibration inputs drawn from the network as it is then."""
        ...

    def cost(self, samples: float) -> float:
        """The work of `run`, in network calls on one sample. samples: rows of the calibration set."""
        ...
