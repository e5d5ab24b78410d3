from __future__ import annotations

import math

import pytest
import torch

from dmq_cli.errors import ConfigError
from dmq_cli.quant import Dynamic, Nearest, PerStep, Static, StepContext, TensorQuantizer, Uniform

X = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def table(context: StepContext, learn: bool = False, equal: bool = False) -> PerStep:
    scale = torch.full((10,), 0.03) if equal else torch.linspace(0.01, 0.05, 10)
    zero_point = torch.full((10,), 120.0) if equal else torch.arange(120.0, 130.0)
    return PerStep(context, scale.double(), zero_point.double(), learn)


def test_a_table_of_equal_rows_is_static() -> None:
    context = StepContext()
    steps = TensorQuantizer(Uniform(8), table(context, equal=True), Nearest())
    scale = torch.tensor(0.03).double()
    static = TensorQuantizer(Uniform(8), Static(scale, 120.0), Nearest())
    for step in (torch.tensor([7]), torch.tensor([0, 9, 3, 3])):
        with context.at(step):
            assert torch.equal(steps(X), static(X))


@pytest.mark.parametrize("learn", [False, True])
def test_mixed_steps_in_a_batch_are_the_separate_ones(learn: bool) -> None:
    context = StepContext()
    quantizer = TensorQuantizer(Uniform(8), table(context, learn), Nearest())
    steps = torch.tensor([1, 7, 7, 0])
    with context.at(steps):
        mixed = quantizer(X)
    for i in range(4):
        with context.at(steps[i : i + 1]):
            assert torch.equal(quantizer(X[i : i + 1]), mixed[i : i + 1])


def test_a_row_broadcasts_to_one_sample() -> None:
    context, steps = StepContext(), torch.tensor([0, 9, 2, 2])
    shapes = {(): (4, 1, 1, 1), (5,): (4, 1, 1, 5), (6, 1, 1): (4, 6, 1, 1), (1, 5, 5): (4, 1, 5, 5)}
    for shape, expected in shapes.items():
        rows = torch.arange(10 * math.prod(shape)).view(10, *shape) + 1.0
        source = PerStep(context, rows, rows * 2)
        with context.at(steps):
            scale, zero_point = source(X)
        assert scale.shape == zero_point.shape == expected
        for sample, step in enumerate(steps):
            assert torch.equal(scale[sample].expand(X.shape[1:]), rows[step].expand(X.shape[1:]))
            assert torch.equal(zero_point[sample], 2 * scale[sample])
    with context.at(torch.tensor([3])):
        assert table(context)(torch.ones(8, 2))[0].shape == (1, 1)


def test_gradients_reach_only_the_rows_in_use() -> None:
    context = StepContext()
    source = table(context, learn=True)
    quantizer = TensorQuantizer(Uniform(8), source, Nearest())
    with context.at(torch.tensor([1, 7, 7, 0])):
        quantizer(X).pow(2).sum().backward()
    assert source.scale.grad is not None
    assert source.scale.grad.nonzero().flatten().tolist() == [0, 1, 7]


def test_a_table_needs_its_scope_and_as_many_steps_as_samples() -> None:
    context = StepContext()
    with pytest.raises(RuntimeError, match="outside"):
        table(context)(X)
    with context.at(torch.tensor([1, 2])), pytest.raises(ValueError, match=r"4 sample\(s\), the StepContext"):
        table(context)(X)
    with pytest.raises(ConfigError, match=r"scales of shape \(3,\) and zero points of shape \(2,\)"):
        PerStep(context, torch.ones(3), torch.ones(2))


def test_learned_scales_stay_positive() -> None:
    source = Static(torch.tensor(-1.0), 0.0, learn=True)
    assert source(X)[0] > 0
    assert [p.requires_grad for p in (source.scale, Static(1.0).scale)] == [True, False]


def test_static_takes_numbers_and_tensors() -> None:
    per_channel = Static(torch.rand(6, 1, 1) + 0.1, torch.zeros(6, 1, 1))
    assert set(per_channel.state_dict()) == {"scale", "zero_point"}
    scale, zero_point = Static(0.5, 3)(X)
    assert (scale.item(), zero_point.item(), zero_point.dtype) == (0.5, 3.0, torch.float32)


def test_dynamic_covers_the_input_at_hand() -> None:
    quantizer = TensorQuantizer(Uniform(8), Dynamic(Uniform(8)), Nearest())
    for factor in (1.0, 100.0):
        y = quantizer(X * factor)
        assert (y - X * factor).abs().max() <= (X.max() - X.min()) * factor / 255 * 0.51
    x = X.clone().requires_grad_()
    quantizer(x).sum().backward()
    assert x.grad is not None and x.grad.mean() > 0.99
