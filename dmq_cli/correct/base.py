"""What every correction configuration offers, and the one that does nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class NoCorrection:
    """Leaves the quantized network as it is. Stands where a correction stands: check early, estimate once, load to use."""

    seeds: str | None = None

    def check(self, eta: float) -> None:
        """Fits every eta; raises nothing."""

    def estimate(self, *_: Any, **__: Any) -> dict[str, Tensor]:
        """Nothing to estimate."""
        return {}

    def shapes(self, calls: int, shape: tuple[int, ...], guided: bool) -> dict[str, tuple[int, ...]]:
        """Of what `estimate` gives, by name, for this many network calls on samples (C, ...); guided: with guidance."""
        return {}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Nothing to apply; raises nothing."""
        return None
