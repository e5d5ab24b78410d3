"""Range estimators against brute force in numpy, written independently of the grids."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.ops import LpSearch, MinMax, Percentile, RangeEstimator, fake_uniform, ranges

Array = npt.NDArray[np.float64]


class AsymmetricGrid:
    """What a range needs of a grid, and a count of its use."""

    def __init__(self, bits: int) -> None:
        self.hi = 2**bits - 1
        self.calls = 0

    def parameters(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        scale = ((maximum - minimum) / self.hi).clamp_min(1e-8)
        return scale, torch.round(-minimum / scale)

    def fake(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        self.calls += 1
        return fake_uniform(x, scale, zero_point, 0, self.hi)


def brute_force(row: Array, bits: int, p: float) -> tuple[float, float]:
    """Search A of the released code, for one channel."""
    best, result = np.inf, (0.0, 0.0)
    low, high, top = min(row.min(), 0.0), max(row.max(), 0.0), 2**bits - 1
    for i in range(80):
        lo, hi = (1 - 0.01 * i) * low, (1 - 0.01 * i) * high
        delta = max((hi - lo) / top, 1e-8)
        zero = np.round(-lo / delta)
        quantized = (np.clip(np.round(row / delta) + zero, 0, top) - zero) * delta
        score = float(np.mean(np.abs(row - quantized) ** p))
        if score < best:
            best, result = score, (lo, hi)
    return result


def sample(rows: int, n: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, n, dtype=torch.float64, generator=generator)
    return values * torch.rand(rows, 1, dtype=torch.float64, generator=generator) * 3


@pytest.mark.parametrize(("bits", "p"), [(4, 2.4), (8, 2.4), (3, 2.0), (2, 1.0)])
def test_search_is_the_brute_force_loop(bits: int, p: float) -> None:
    values = sample(12, 300)
    values[3] = values[3].abs()
    values[4] = -values[4].abs() - 1
    values[5] *= 1e-3
    minimum, maximum = LpSearch(p=p).fit(values, AsymmetricGrid(bits))
    expected = np.array([brute_force(row, bits, p) for row in values.numpy()])
    np.testing.assert_allclose(np.stack([minimum, maximum], 1), expected, rtol=1e-12)


def test_search_does_not_depend_on_tiles_or_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    values = sample(7, 50)
    whole = LpSearch().fit(values, AsymmetricGrid(4))
    monkeypatch.setattr(ranges, "TILE", 16)  # rows in many pieces
    pieces = LpSearch().fit(values, AsymmetricGrid(4))
    alone = [LpSearch().fit(row[None], AsymmetricGrid(4)) for row in values]
    assert torch.equal(whole[0], pieces[0]) and torch.equal(whole[1], pieces[1])
    assert torch.equal(whole[0], torch.cat([a for a, _ in alone]))


def test_search_works_on_all_rows_at_once() -> None:
    grid = AsymmetricGrid(4)
    LpSearch().fit(sample(1000, 20), grid)
    assert grid.calls == 80  # a loop over channels would need 80,000


def test_search_in_single_precision_is_as_good() -> None:
    values, grid = sample(20, 200), AsymmetricGrid(4)

    def error(limits: tuple[Tensor, Tensor]) -> Tensor:
        scale, zero_point = grid.parameters(limits[0].double()[:, None], limits[1].double()[:, None])
        return (grid.fake(values, scale, zero_point) - values).abs().pow(2.4).mean(1)

    for dtype, slack in ((torch.float32, 1e-4), (torch.bfloat16, 0.1)):
        bounds = LpSearch().fit(values.to(dtype), grid)
        assert bounds[0].dtype == torch.float32
        assert (error(bounds) <= error(LpSearch().fit(values, grid)) * (1 + slack)).all()


def test_search_leaves_the_values_alone_and_builds_no_graph() -> None:
    values = sample(3, 10).requires_grad_()
    before = values.detach().clone()
    minimum, _ = LpSearch().fit(values, AsymmetricGrid(4))
    assert torch.equal(values, before) and not minimum.requires_grad


@pytest.mark.parametrize("n", [1, 2, 101, 1000])
@pytest.mark.parametrize("percent", [99.99, 99.0, 75.0, 100.0])
def test_percentile_is_numpys(n: int, percent: float) -> None:
    values = sample(5, n)
    minimum, maximum = Percentile(percent).fit(values, AsymmetricGrid(8))
    low = np.minimum(np.percentile(values.numpy(), 100 - percent, axis=1), 0)
    high = np.maximum(np.percentile(values.numpy(), percent, axis=1), 0)
    np.testing.assert_allclose(minimum, low, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(maximum, high, rtol=1e-9, atol=1e-12)


ESTIMATORS: list[RangeEstimator] = [MinMax(), Percentile(), LpSearch()]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_the_range_contains_zero(estimator: RangeEstimator) -> None:
    values = torch.tensor([[1.0, 2.0, 3.0], [-3.0, -2.0, -1.0], [0.0, 0.0, 0.0]])
    minimum, maximum = estimator.fit(values, AsymmetricGrid(8))
    assert minimum[0] == 0 and maximum[1] == 0 and minimum[2] == 0 == maximum[2]
    assert maximum[0] > 2 and minimum[1] < -2


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_empty_rows_are_zero_and_no_rows_are_none(estimator: RangeEstimator) -> None:
    for shape in ((2, 0), (0, 0), (0, 3)):
        if shape == (0, 3) and isinstance(estimator, MinMax):
            continue
        minimum, maximum = estimator.fit(torch.empty(shape), AsymmetricGrid(8))
        assert minimum.tolist() == maximum.tolist() == [0.0] * shape[0]


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_a_number_is_a_sentence(estimator: RangeEstimator, bad: float) -> None:
    values = torch.ones(2, 3)
    values[1, 1] = bad
    with pytest.raises(NumericsError, match=r"^A range was asked for 2 group\(s\) of 3 values.*look for"):
        estimator.fit(values, AsymmetricGrid(8))


def test_only_min_max_can_do_without_the_values() -> None:
    assert [e.needs_values for e in ESTIMATORS] == [False, True, True]


@pytest.mark.parametrize(
    "wrong",
    [{"p": 0}, {"candidates": 0}, {"shrink": 0.0}, {"candidates": 101}],
)
def test_impossible_searches_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="LpSearch was asked for"):
        LpSearch(**wrong)


@pytest.mark.parametrize("percent", [50.0, 101.0])
def test_impossible_percentiles_are_refused(percent: float) -> None:
    with pytest.raises(ConfigError, match="Percentile was asked for"):
        Percentile(percent)
