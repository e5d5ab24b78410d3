from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dmq_cli.errors import ConfigError
from dmq_cli.ops import LpSearch, MinMax, Percentile, RangeEstimator
from dmq_cli.quant import Grid, Log2, Nearest, Uniform

GRIDS: list[Grid] = [Uniform(4), Uniform(4, symmetric=True), Uniform(4, from_zero=True), Log2(4), Uniform(1)]


def test_codes_of_each_kind() -> None:
    assert [(grid.lo, grid.hi) for grid in GRIDS] == [(0, 15), (-8, 7), (0, 15), (0, 15), (0, 1)]
    assert Uniform(16).hi == 65535 and Uniform(2, symmetric=True).lo == -2


@pytest.mark.parametrize("bits", [0, 17, 8.0, "8", True, None])
def test_bits_are_a_whole_number_in_range(bits: Any) -> None:
    with pytest.raises(ConfigError, match=r"Uniform was asked for bits=.*choose a whole number in 1\.\.16\."):
        Uniform(bits)
    with pytest.raises(ConfigError, match=r"Log2 was asked"):
        Log2(bits)
    with pytest.raises(ConfigError, match=r"2\.\.16"):
        Uniform(1, symmetric=True)
    with pytest.raises(ConfigError, match=r"both symmetric and from_zero"):
        Uniform(8, symmetric=True, from_zero=True)


def test_parameters_by_hand() -> None:
    low, high = torch.tensor([-1.0, 2.0, -7.0]), torch.tensor([2.0, 15.0, -1.0])
    scale, zero_point = Uniform(4).parameters(low, high)
    assert torch.allclose(scale, torch.tensor([3 / 15, 1.0, 7 / 15]))
    assert zero_point.tolist() == [5, 0, 15]  # zero is always a value
    scale, zero_point = Uniform(4, symmetric=True).parameters(low, high)
    assert torch.allclose(scale, torch.tensor([2 / 7, 15 / 7, 1.0])) and zero_point.tolist() == [0, 0, 0]
    scale, zero_point = Uniform(4, from_zero=True).parameters(low, high)
    assert torch.allclose(scale[:2], torch.tensor([2 / 15, 1.0])) and zero_point.tolist() == [0, 0, 0]
    scale, zero_point = Log2(4).parameters(low, high)
    assert scale[:2].tolist() == [2, 15] and zero_point.tolist() == [0, 0, 0]


@settings(deadline=None)
@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.integers(1, 16))
def test_asymmetric_range_is_covered_and_zero_is_exact(first: float, second: float, bits: int) -> None:
    low, high = (torch.tensor(v, dtype=torch.float64) for v in sorted((first, second)))
    grid = Uniform(bits)
    scale, zero_point = grid.parameters(low, high)
    assert scale > 0 and zero_point == zero_point.round() and 0 <= zero_point <= grid.hi
    ends = torch.stack([low, high, torch.zeros_like(low)])
    error = (grid.fake(ends, scale, zero_point) - ends).abs()
    assert (error <= scale * 0.5 * (1 + 1e-9)).all() and error[2] == 0


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("estimator", [MinMax(), Percentile(), LpSearch()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_rows_of_zeros_have_a_scale(grid: Grid, estimator: RangeEstimator, dtype: torch.dtype) -> None:
    values = torch.zeros(2, 5, dtype=dtype)
    scale, zero_point = grid.parameters(*estimator.fit(values, grid))
    assert (scale > 0).all() and scale.isfinite().all()
    assert torch.equal(grid.fake(values, scale[:, None], zero_point[:, None]), values)
    half = grid.parameters(torch.zeros(1).half(), torch.zeros(1).half())
    assert half[0] > 0


@pytest.mark.parametrize("grid", GRIDS)
def test_fake_is_nearest_and_at_most_two_to_the_bits_values(grid: Grid) -> None:
    x = torch.linspace(-3, 5, 1001, dtype=torch.float64)
    scale, zero_point = grid.parameters(x.min(), x.max())
    y = grid.fake(x, scale, zero_point)
    assert torch.equal(y, grid(x, scale, zero_point, Nearest()))
    assert len(set(y.tolist())) <= 2**grid.bits
    codes = grid.codes(x, scale, zero_point, Nearest())
    assert codes.min() >= grid.lo and codes.max() <= grid.hi


def test_search_beats_min_max_on_heavy_tails() -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(4, 2000, generator=generator) ** 3
    for grid in (Uniform(4), Uniform(4, symmetric=True)):
        errors = []
        for estimator in (MinMax(), LpSearch(p=2.0)):
            scale, zero_point = grid.parameters(*estimator.fit(values, grid))
            errors.append((grid.fake(values, scale[:, None], zero_point[:, None]) - values).pow(2).mean(1))
        assert (errors[1] < errors[0]).all()
