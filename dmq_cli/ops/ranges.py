"""Range estimators: from the values that share a scale to the (minimum, maximum) their grid should cover.

`LpSearch` is the "mse" scale search of Y. Li et al., BRECQ, ICLR 2021, arXiv:2102.05426, as released
(compared: github.com/yhhhli/BRECQ, quant/quant_layer.py @ 0c31855); Q-Diffusion, TFMQ-DM, PTQD, QuEST and
EfficientDM use it too.

Deliberate deviation, for all estimators: the range is extended to contain 0 before anything else, since zero
padding must be representable. The released search leaves a one-sided range alone and allows a zero point that
is not a code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.ops.devices import CPU

Range = tuple[Tensor, Tensor]
"""Minimum <= 0 and maximum >= 0 of each group, both (G,)."""

TILE = 2**18  # elements worked on at once: a MB in float32, which stays in cache over all candidates
MOST_ROWS = 4096


class RangeGrid(Protocol):
    """What an estimator needs of a grid."""

    def parameters(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        """Scale (> 0) and zero point that cover [minimum, maximum]; shapes as given."""
        ...

    def fake(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """x quantized to the nearest code and back, in a tensor of its own; the others broadcast to x."""
        ...


class RangeEstimator(Protocol):
    """What a calibration needs of an estimator."""

    needs_values: ClassVar[bool]
    """False: the running minimum and maximum of each group are enough, as values (G, 2)."""

    def fit(self, values: Tensor, grid: RangeGrid) -> Range:
        """The range of each row of values (G, n). NumericsError for NaN or infinity."""
        ...


@dataclass(frozen=True)
class MinMax:
    """The whole range."""

    needs_values: ClassVar[bool] = False

    def fit(self, values: Tensor, grid: RangeGrid) -> Range:
        """Minimum and maximum of each row of values (G, n), extended to contain 0; the grid is not used."""
        return extremes(values)


@dataclass(frozen=True)
class Percentile:
    """From the (100 - percent)-th to the percent-th percentile, interpolated linearly.

    percent: in (50, 100].
    """

    percent: float = 99.99
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise ConfigError(f"Percentile was asked for percent={self.percent}; choose a number above 50, up to 100.")

    @torch.no_grad()
    def fit(self, values: Tensor, grid: RangeGrid) -> Range:
        """Percentiles of each row of values (G, n), extended to contain 0; the grid is not used."""
        minimum, maximum = extremes(values)
        if values.shape[1] == 0:
            return minimum, maximum
        for rows in _row_chunks(values):
            minimum[rows] = -self._upper(-values[rows])
            maximum[rows] = self._upper(values[rows])
        return minimum.clamp_max_(0), maximum.clamp_min_(0)

    def _upper(self, rows: Tensor) -> Tensor:
        position = (rows.shape[1] - 1) * (self.percent / 100)
        below = int(position)
        # torch.quantile refuses rows above 2^24 elements, and a full sort is far more work than a thin tail.
        tail = rows.topk(rows.shape[1] - below, dim=1).values
        return torch.lerp(tail[:, -1], tail[:, max(tail.shape[1] - 2, 0)], position - below)


@dataclass(frozen=True)
class LpSearch:
    """Shrink the range step by step and keep the one with the least mean |x - q(x)|^p; first one on a tie.

    Candidate i = 0 .. candidates-1 is (1 - shrink * i) times the row's minimum and maximum.
    p and shrink: positive; shrink * (candidates - 1) < 1.
    """

    p: float = 2.4
    candidates: int = 80
    shrink: float = 0.01
    needs_values: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.p <= 0 or self.candidates < 1 or self.shrink <= 0 or self.shrink * (self.candidates - 1) >= 1:
            raise ConfigError(
                f"LpSearch was asked for p={self.p}, candidates={self.candidates}, shrink={self.shrink}; "
                "choose positive numbers with shrink * (candidates - 1) below 1, so that no range is empty."
            )

    @torch.no_grad()
    def fit(self, values: Tensor, grid: RangeGrid) -> Range:
        """The best range of each row of values (G, n). Half precision is searched in float32."""
        factors = 1 - self.shrink * torch.arange(self.candidates, dtype=torch.float64)
        return search(values, extremes(values), factors, self.p, grid)


def search(values: Tensor, limits: Range, factors: Tensor, p: float, grid: RangeGrid) -> Range:
    """For each row of values (G, n), limits times that of the factors (F,) with the least sum of |x - q(x)|^p; the first on a tie.

    limits: minimum and maximum, (G,) each; they are changed.
    """
    (minimum, maximum), here_factors = limits, factors.to(values.device)
    for rows in _row_chunks(values):
        row_limits = minimum[rows, None], maximum[rows, None]
        best = here_factors[_errors(values[rows], row_limits, factors.tolist(), p, grid).argmin(dim=1)]
        minimum[rows] *= best.to(minimum.dtype)
        maximum[rows] *= best.to(maximum.dtype)
    return minimum, maximum


def _errors(values: Tensor, limits: Range, factors: list[float], p: float, grid: RangeGrid) -> Tensor:
    """Sum of |x - q(x)|^p: (rows, candidates), in float64."""
    parameters = [grid.parameters(limits[0] * factor, limits[1] * factor) for factor in factors]
    tiles = torch.split(values, max(1, TILE // values.shape[0]), dim=1)
    if len(tiles) == 1 and p > 2 and values.device == CPU:  # a device would be waited for at every candidate
        return _pruned_errors(_single(values).contiguous(), parameters, p, grid)
    errors = values.new_zeros((values.shape[0], len(factors)), dtype=torch.float64)
    for tile in tiles:
        tile = _single(tile).contiguous()
        for i, (scale, zero_point) in enumerate(parameters):
            errors[:, i] += _power(grid.fake(tile, scale, zero_point).sub_(tile), p).sum(dim=1)
    return errors


def _pruned_errors(tile: Tensor, parameters: list[tuple[Tensor, Tensor]], p: float, grid: RangeGrid) -> Tensor:
    """Sum of |x - q(x)|^p, p > 2: (rows, candidates), in float64; infinity where another candidate is better.

    The power is the dear part. With S_r the sum of |x - q(x)|^r, log S_r is convex in r (Lyapunov's inequality), so
    S_p >= S_2^(p-1) / S_1^(p-2): where that is already above the least sum found, the power is left out.
    """
    errors = tile.new_full((tile.shape[0], len(parameters)), torch.inf, dtype=torch.float64)
    least = errors[:, 0].clone()
    # From coarse to fine (0, 64, 32, 16, 48, 8, ...), so that a good candidate comes early.
    for i in sorted(range(len(parameters)), key=lambda i: -(i & -i) if i else -len(parameters)):
        apart = grid.fake(tile, *parameters[i]).sub_(tile).abs_()
        first, second = apart.sum(dim=1).double(), torch.linalg.vector_norm(apart, dim=1).double().square()
        bound = second.pow(p - 1) / first.pow(p - 2).clamp_min(torch.finfo(torch.float64).tiny)
        rows = (bound <= least * 1.01).nonzero().flatten()  # the sums are rounded, too
        if len(rows):
            errors[rows, i] = _power(apart[rows], p).sum(dim=1).double()
            least = torch.minimum(least, errors[:, i])
    return errors


def _power(x: Tensor, p: float) -> Tensor:
    """|x|^p in place."""
    # exp2(p log2|x|) is four times faster than pow on CPU; zero goes over -inf to zero.
    return x.square_() if p == 2 else x.abs_().log2_().mul_(p).exp2_()


def _single(x: Tensor) -> Tensor:
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _row_chunks(values: Tensor) -> Iterator[slice]:
    """Slices of rows that hold about TILE elements together, at least one row each."""
    groups, n = values.shape
    count = min(max(1, TILE // max(n, 1)), MOST_ROWS)
    return (slice(first, first + count) for first in range(0, groups, count))


def extremes(values: Tensor) -> Range:
    """New tensors with each row's minimum and maximum, extended to contain 0; zeros for empty rows."""
    values = _single(values.detach())
    if values.shape[1] == 0:
        return values.new_zeros(values.shape[0]), values.new_zeros(values.shape[0])
    minimum, maximum = values.aminmax(dim=1)
    if not (minimum.isfinite() & maximum.isfinite()).all():
        raise NumericsError(
            f"A range was asked for {values.shape[0]} group(s) of {values.shape[1]} values, and NaN or "
            "infinity was found among them; look for the layer or the input that produced them."
        )
    return minimum.clamp_max(0), maximum.clamp_min(0)
