"""Ranges as a moving average over small batches of samples.

The "running statistics" of Q-Diffusion and TFMQ-DM (released code: momentum 0.95 over shuffled batches of 64 and 16).
`SearchedEma` is the range of Liu et al., EDA-DM, arXiv:2401.04585, as released (compared: BienLuky/EDA-DM,
qdiff/quant_layer.py @ 87302c0; it calls it "mse", and its search is that of QDrop).
Deliberate deviation: the batch is part of the estimator and not of the program's batch size, which must not change results; both
shuffle the samples, EDA-DM takes them as they come, which is at random.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.ops.ranges import MinMax, Range, RangeGrid, extremes, search

_BELOW = 1 - 2.0**-18
"""Of -r to r the upper end, so that no rounding error decides which of the two middle codes is 0: the upper one (as released, mostly)."""


@dataclass(frozen=True)
class Ema:
    """m <- momentum m + (1 - momentum) x, over the extremes x of shuffled batches; the first batch is the start.

    momentum: in [0, 1); batch: samples, at least 1. ConfigError otherwise.
    """

    momentum: float = 0.95
    batch: int = 16
    needs_values: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check("Ema", self.momentum, self.batch)

    def fit(self, values: Tensor, grid: RangeGrid) -> Range:
        """For a tensor that has no samples (a weight): its extremes."""
        return MinMax().fit(values, grid)

    def running(self, low: Tensor, high: Tensor) -> Range:
        """From the extremes of every sample, (N, G) each, to the range of each group (G,), extended to contain 0."""
        batches = _shuffled(len(low), self.batch)
        lows = torch.stack([low[rows].amin(0) for rows in batches])
        highs = torch.stack([high[rows].amax(0) for rows in batches])
        return _average(lows, self.momentum).clamp_max(0), _average(highs, self.momentum).clamp_min(0)


@dataclass(frozen=True)
class SearchedEma:
    """m <- momentum m + (1 - momentum) x, over the searched ranges x of shuffled batches; the first batch is the start.

    A search takes, of [-r, r] for r = 1/n, 2/n, ... 1 of the greatest magnitude, the range with the least sum of |x - q(x)|^p;
    [0, r] or [-r, 0] where all values have one sign. The middle of a uniform grid then stands for 0.
    momentum: in [0, 1); batch: samples, at least 1; candidates: n, at least 1; p: positive. ConfigError otherwise.
    """

    momentum: float = 0.9
    batch: int = 256
    p: float = 2.4
    candidates: int = 100
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check("SearchedEma", self.momentum, self.batch)
        if self.p <= 0 or self.candidates < 1:
            raise ConfigError(
                f"SearchedEma was asked for p={self.p}, candidates={self.candidates}; use a positive p and at least 1 candidate."
            )

    @torch.no_grad()
    def fit(self, values: Tensor, grid: RangeGrid) -> Range:
        """One search of each row of values (G, n): for a tensor that has no samples (a weight), and for one batch."""
        low, high = extremes(values)
        reach = torch.maximum(-low, high)
        one_sign = not ((low < 0).any() and (high > 0).any())
        limits = (low, high) if one_sign else (-reach, reach * _BELOW)
        factors = torch.arange(1, self.candidates + 1, dtype=torch.float64) / self.candidates
        return search(values, limits, factors, self.p, grid)

    def running(self, values: Tensor, low: Tensor, high: Tensor, grid: RangeGrid) -> Range:
        """From some values (N, k) and the extremes (N,) of every sample to the range of all, (1,) each."""
        ranges = []
        for rows in _shuffled(len(values), self.batch):
            ends = torch.stack([low[rows].amin(), high[rows].amax()])
            ranges.append(self.fit(torch.cat([values[rows].flatten(), ends])[None], grid))
        lows, highs = (torch.stack(end) for end in zip(*ranges, strict=True))
        return _average(lows, self.momentum), _average(highs, self.momentum)


def _check(name: str, momentum: float, batch: int) -> None:
    if not 0 <= momentum < 1 or batch < 1:
        raise ConfigError(
            f"{name} was asked for momentum={momentum}, batch={batch}; use a momentum in 0..1 (below 1), and batches of at least 1."
        )


def _shuffled(num: int, batch: int) -> tuple[Tensor, ...]:
    """The numbers of `num` samples, shuffled and cut into batches."""
    order = torch.randperm(num, generator=torch.Generator().manual_seed(0), device="cpu")
    return torch.split(order, batch)


def _average(ends: Tensor, momentum: float) -> Tensor:
    """The moving average of ends (batches, G) after the last batch, (G,)."""
    age = torch.arange(len(ends) - 1, -1, -1, dtype=ends.dtype)
    weight = (1 - momentum) * momentum**age
    weight[0] = momentum ** age[0]
    return weight @ ends
