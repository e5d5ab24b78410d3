"""What every correction offers to the stages that estimate and use it, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from dmq_cli.models import Denoiser
from dmq_cli.sampling import Correction, Guide, Scheduler, parse_range

Report = Callable[[int, int], None]
"""Told how many of how many network calls of a trajectory are done."""


class CorrectionMethod(Protocol):
    """Finds tables on trajectories of both networks (once for each quantized network), and loads them for sampling."""

    @property
    def seeds(self) -> str | None:
        """The noise it is estimated on, a range like "2000000-2000127"; None where nothing is estimated."""
        ...

    def check(self, eta: float) -> None:
        """Raise ConfigError for fields that do not fit a sampler of this eta; called before anything is computed."""
        ...

    def estimate(
        self, full: Denoiser, quantized: Denoiser, scheduler: Scheduler, shape: tuple[int, ...], eta: float,
        *, report: Report, guide: Guide,
    ) -> dict[str, Tensor]:  # fmt: skip
        """The tables, by name. shape: (C, H, W) of a sample. Raises NumericsError for what is not finite."""
        ...

    def shapes(self, calls: int, shape: tuple[int, ...], guided: bool) -> dict[str, tuple[int, ...]]:
        """Of what `estimate` gives, by name, for this many network calls on samples (C, H, W); guided: with guidance."""
        ...

    def load(self, tensors: Mapping[str, Tensor]) -> Correction | None:
        """The correction that applies what `estimate` found; None for nothing to apply."""
        ...

    def cost(self, calls: int) -> float:
        """The work of `estimate`, in network calls on one sample. calls: of one trajectory."""
        ...


@dataclass(frozen=True)
class NoCorrection:
    """Leaves the quantized network as it is."""

    seeds: str | None = None

    def check(self, eta: float) -> None:
        """Fits every eta; raises nothing."""

    def estimate(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """Nothing to estimate."""
        return {}

    def shapes(self, calls: int, shape: tuple[int, ...], guided: bool) -> dict[str, tuple[int, ...]]:
        """No tables."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to apply; raises nothing."""
        return None

    def cost(self, calls: int) -> float:
        """Nothing is estimated."""
        return 0.0


def both_trajectories(seeds: str, calls: int) -> float:
    """The cost of walking both networks once from each of these seeds, in network calls on one sample."""
    return 2.0 * len(parse_range(seeds)) * calls
