"""Sets of scales for equal intervals of the timesteps: which timestep has which row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.quant import Intervals, IntervalScale, Nearest, PerStep, Static, StepContext, TensorQuantizer, Uniform
from dmq_cli.wrap import Rule, quantizing
from tests.tiny import data, one_sentence, scheme, wrapped

X = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STEP = torch.tensor([0])  # the sampler's step, which has no say here


def table(context: StepContext, rows: int, total: int = 1000, learn: bool = False) -> Intervals:
    """Row k has scale (k + 1) / 100 and zero point k."""
    numbers = torch.arange(rows, dtype=torch.float64)
    return Intervals(context, (numbers + 1) / 100, numbers, total, learn)


def rows_of(source: Intervals, timesteps: Tensor) -> Tensor:
    with source.context.at(STEP, timesteps):
        scale, zero_point = source.forward(torch.ones(len(timesteps), 1))
        assert torch.equal(source.rows(len(timesteps)), source.index())
    assert torch.equal((zero_point + 1) / 100, scale)
    return zero_point.flatten().to(torch.int64)


def test_every_timestep_is_in_the_interval_that_holds_it() -> None:
    swept = 0
    for total, rows in ((1000, 1), (1000, 2), (1000, 3), (1000, 7), (1000, 10), (1000, 250), (1000, 1000), (100, 8)):
        indices = rows_of(table(StepContext(), rows, total), torch.arange(total))
        # row k starts at timestep k total / rows: t is in it where t rows >= k total
        starts = np.arange(rows) * total
        expected = np.searchsorted(starts, np.arange(total) * rows, side="right") - 1
        assert indices.tolist() == expected.tolist()
        sizes = torch.bincount(indices, minlength=rows)
        assert len(sizes) == rows and int(sizes.max() - sizes.min()) <= 1, "as equal as whole timesteps allow"
        swept += len(indices)
    assert swept == 7 * 1000 + 100


def test_boundaries_by_hand() -> None:
    indices = rows_of(table(StepContext(), 10), torch.tensor([0, 99, 100, 101, 899, 900, 999]))
    assert indices.tolist() == [0, 0, 1, 1, 8, 9, 9]
    assert rows_of(table(StepContext(), 3), torch.tensor([333, 334, 666, 667])).tolist() == [0, 1, 1, 2]


def test_timesteps_outside_of_training_have_the_first_or_last_row() -> None:
    assert rows_of(table(StepContext(), 10), torch.tensor([-1, -5000, 1000, 99_999])).tolist() == [0, 0, 9, 9]


def test_one_interval_is_static_bit_for_bit_with_its_gradient() -> None:
    context = StepContext()
    single = Intervals(context, torch.tensor([0.03]).double(), torch.tensor([120.0]).double(), learn=True)
    static = Static(torch.tensor(0.03).double(), 120.0, learn=True)
    results = []
    for source in (single, static):
        with context.at(STEP, torch.tensor([0, 500, 999, 1])):
            y = TensorQuantizer(Uniform(8), source, Nearest())(X)
        y.square().sum().backward()
        assert source.scale.grad is not None
        results.append((y, source.scale.grad))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.allclose(results[0][1], results[1][1], rtol=1e-12)


def test_equal_rows_are_static_and_mixed_timesteps_are_the_separate_ones() -> None:
    context, timesteps = StepContext(), torch.tensor([999, 0, 150, 149])
    equal = Intervals(context, torch.full((7,), 0.03).double(), torch.full((7,), 120.0).double())
    static = TensorQuantizer(Uniform(8), Static(equal.scale[0], 120.0), Nearest())
    mixed = TensorQuantizer(Uniform(4), table(context, 7), Nearest())
    with context.at(STEP, timesteps):
        assert torch.equal(TensorQuantizer(Uniform(8), equal, Nearest())(X), static(X))
        together = mixed(X)
    for i in range(4):
        with context.at(STEP, timesteps[i : i + 1]):
            assert torch.equal(mixed(X[i : i + 1]), together[i : i + 1])


def test_gradients_reach_only_the_intervals_in_use() -> None:
    context = StepContext()
    source = table(context, 5, learn=True)
    with context.at(STEP, torch.tensor([0, 999, 401, 599])):
        TensorQuantizer(Uniform(4), source, Nearest())(X).square().sum().backward()
    assert source.scale.grad is not None and source.scale.grad.nonzero().flatten().tolist() == [0, 2, 4]


def test_a_scope_without_a_timestep_is_an_error() -> None:
    context = StepContext()
    with pytest.raises(RuntimeError, match="timestep was read where only a step was set"), context.at(STEP):
        table(context, 3)(X)
    error = r"Intervals was called with 4 sample\(s\), the StepContext holds 2"
    with pytest.raises(ValueError, match=error), context.at(STEP, torch.tensor([1, 2])):
        table(context, 3)(X)


@pytest.mark.parametrize(("num", "total"), [(0, 1000), (-3, 1000), (1001, 1000), (11, 10), (1, 0)])
def test_more_sets_than_timesteps_or_none_are_refused(num: int, total: int) -> None:
    with pytest.raises(ConfigError, match=f"asked for num={num} sets over {total} timesteps") as caught:
        IntervalScale(num, total)
    one_sentence(caught.value)
    with pytest.raises(ConfigError, match="asked for num=0 sets"):
        IntervalScale(0)
    assert (IntervalScale(1).num, IntervalScale(1000).num) == (1, 1000)


ACTIVATIONS = "*.input|attn.[qkvp]|attn.prob"


def test_a_network_with_one_interval_is_the_static_network_bit_for_bit() -> None:
    from dmq_cli.wrap import QuantDenoiser

    single, static = wrapped(scheme(Rule(ACTIVATIONS, scale=IntervalScale(1)))), wrapped()
    assert sum(isinstance(q.scale, Intervals) for q in single.quantizers().values()) == 55 + 16
    assert torch.equal(QuantDenoiser(single)(*data()), QuantDenoiser(static)(*data()))
    with quantizing(single, weights=False, activations=False):
        assert not torch.equal(QuantDenoiser(single)(*data()), QuantDenoiser(static)(*data()))


def test_intervals_are_fitted_to_their_own_samples_and_else_to_the_nearest() -> None:
    """The calibration set has timesteps 750, 500, 250 and 0: of ten intervals 7, 5, 2 and 0."""
    steps = wrapped(scheme(Rule(ACTIVATIONS, scale=IntervalScale(4))))
    fitted = wrapped(scheme(Rule(ACTIVATIONS, scale=IntervalScale(10))))
    nearest = [3, 3, 2, 2, 1, 1, 1, 0, 0, 0]  # of 750, 500, 250, 0; an interval between two takes the lower
    compared = 0
    for name, quantizer in fitted.quantizers("input").items():
        mine, four = quantizer.scale, steps.quantizers()[name].scale
        assert isinstance(mine, Intervals) and isinstance(four, PerStep)
        by_timestep = {0: four.scale[0], 250: four.scale[1], 500: four.scale[2], 750: four.scale[3]}
        expected = torch.stack([by_timestep[[750, 500, 250, 0][place]] for place in nearest])
        assert torch.equal(mine.scale, expected), name
        compared += len(expected)
    assert compared == 55 * 10
