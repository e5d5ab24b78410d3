"""fake_uniform and fake_log2: laws for all inputs, gradients, agreement with plain arithmetic."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dmq_cli.ops import (
    fake_log2,
    fake_uniform,
    log2_codes,
    round_ste,
    scale_gradient,
    smallest_scale,
    uniform_codes,
)

VALUES = st.lists(st.floats(-50, 50), min_size=1, max_size=40).map(lambda v: torch.tensor(v, dtype=torch.float64))
SCALES = st.floats(1e-3, 2.0).map(lambda v: torch.tensor(v, dtype=torch.float64))
BITS = st.integers(1, 8)


def codes_of(bits: int, signed: bool, data: st.DataObject) -> tuple[int, int, Tensor]:
    lo, hi = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    zero_point = 0 if signed else data.draw(st.integers(lo, hi))
    return lo, hi, torch.tensor(float(zero_point), dtype=torch.float64)


@settings(deadline=None)
@given(VALUES, SCALES, BITS, st.booleans(), st.data())
def test_laws_of_the_uniform_grid(x: Tensor, scale: Tensor, bits: int, signed: bool, data: st.DataObject) -> None:
    lo, hi, zero_point = codes_of(bits, signed, data)
    y = fake_uniform(x, scale, zero_point, lo, hi, round_ste)
    assert y.shape == x.shape and y.dtype == x.dtype
    assert torch.equal(fake_uniform(y, scale, zero_point, lo, hi, round_ste), y)  # idempotent
    assert len(set(y.tolist())) <= 2**bits
    inside = (x >= (lo - zero_point) * scale) & (x <= (hi - zero_point) * scale)
    assert ((x - y).abs()[inside] <= scale / 2 * (1 + 1e-9)).all()
    assert (y[x.argsort()].diff() >= 0).all()  # monotone


@settings(deadline=None)
@given(VALUES, SCALES, BITS, st.booleans(), st.data())
def test_codes_are_integers_in_range_and_mean_the_values(
    x: Tensor, scale: Tensor, bits: int, signed: bool, data: st.DataObject
) -> None:
    lo, hi, zero_point = codes_of(bits, signed, data)
    codes = uniform_codes(x, scale, zero_point, lo, hi, round_ste)
    assert torch.equal(codes, codes.round()) and codes.min() >= lo and codes.max() <= hi
    assert torch.equal((codes - zero_point) * scale, fake_uniform(x, scale, zero_point, lo, hi, round_ste))


def slow(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
    # another function object: the fast path knows only round_ste
    return fake_uniform(x, scale, zero_point, lo, hi, lambda u: torch.round(u))


@pytest.mark.parametrize("shape", [(), (1, 7, 1), (3, 1, 1), (3, 7, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_in_place_path_gives_the_same_bits(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 7, 5, generator=generator) * 3).to(dtype)
    x[0, 0, 0], x[0, 0, 1] = 1e30, -1e30
    before = x.clone()
    scale = (torch.rand(shape, generator=generator) * 0.02 + 1e-3).to(dtype)
    zero_point = torch.randint(0, 256, shape, generator=generator).to(dtype)
    fast = fake_uniform(x, scale, zero_point, 0, 255, round_ste)
    assert torch.equal(fast, slow(x, scale, zero_point, 0, 255))
    assert torch.equal(x, before) and fast.dtype == dtype
    with_gradient = fake_uniform(x.clone().requires_grad_(), scale, zero_point, 0, 255, round_ste)
    assert torch.equal(fast, with_gradient.detach())
    with torch.no_grad():
        assert torch.equal(fast, fake_uniform(x.requires_grad_(), scale, zero_point, 0, 255, round_ste))


def test_lower_precision_input_keeps_its_dtype() -> None:
    x = torch.randn(4, 3, dtype=torch.bfloat16)
    scale = torch.full((4, 1), 0.1)
    assert fake_uniform(x, scale, torch.zeros(4, 1), -8, 7, round_ste).dtype == torch.bfloat16
    assert fake_log2(x.abs(), scale, 7, round_ste).dtype == torch.bfloat16


def test_nan_stays_nan_and_infinity_saturates_without_gradients() -> None:
    x = torch.tensor([float("nan"), float("inf"), float("-inf")])
    y = fake_uniform(x, torch.tensor(0.5), torch.zeros(()), -8, 7, round_ste)
    assert y[0].isnan() and y[1:].tolist() == [3.5, -4]
    alive = fake_uniform(x.requires_grad_(), torch.tensor(0.5), torch.zeros(()), -8, 7, round_ste)
    assert alive[0].isnan()


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1))
def test_round_ste_is_round(values: list[float]) -> None:
    x = torch.tensor(values)
    assert torch.equal(round_ste(x), torch.round(x))


def test_the_smallest_scale_divides_without_overflow() -> None:
    x = torch.tensor([1e6, -1e6], requires_grad=True)
    scale = torch.tensor(smallest_scale(torch.float32), requires_grad=True)
    y = fake_uniform(x, scale, torch.zeros(()), -8, 7, round_ste)
    assert torch.equal(y, scale * torch.tensor([7.0, -8.0]))
    grads = torch.autograd.grad(y.sum(), [x, scale])
    assert grads[0].tolist() == [0, 0] and grads[1].item() == -1


def surrogate(x: Tensor, scale: Tensor, zero_point: float, lo: int, hi: int, residual: Tensor) -> Tensor:
    """fake_uniform with rounding as a constant added: what the straight-through gradient differentiates."""
    return (torch.clamp(x / scale + residual + zero_point, lo, hi) - zero_point) * scale


def test_gradients_match_finite_differences_of_the_surrogate() -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, dtype=torch.float64, generator=generator)
    # The surrogate has a corner at the first and the last code; gradients there are tested below, by hand.
    raw = torch.round(x / 0.11) + 6
    x = x[(raw != 0) & (raw != 15)].requires_grad_()
    assert len(x) < len(raw) and (raw > 15).any() and (raw < 0).any()
    scale = torch.tensor(0.11, dtype=torch.float64, requires_grad=True)
    y = fake_uniform(x, scale, torch.tensor(6.0).double(), 0, 15, round_ste)
    y.sum().backward()  # type: ignore[no-untyped-call]
    with torch.no_grad():
        h, args = 1e-7, (6.0, 0, 15, torch.round(x / scale) - x / scale)
        by_scale = (surrogate(x, scale + h, *args) - surrogate(x, scale - h, *args)) / (2 * h)
        by_x = (surrogate(x + h, scale, *args) - surrogate(x - h, scale, *args)) / (2 * h)
    assert x.grad is not None and scale.grad is not None
    assert torch.allclose(x.grad, by_x, atol=1e-6)
    assert torch.allclose(scale.grad, by_scale.sum(), rtol=1e-6)


def test_lsq_gradient_of_the_scale_is_equation_3() -> None:
    x = torch.tensor([-9.0, -0.33, 0.0, 0.26, 1.0, 9.0], dtype=torch.float64)
    scale = torch.tensor(0.25, dtype=torch.float64)
    expected = [-8.0, -1 + 1.32, 0.0, 1 - 1.04, 0.0, 7.0]
    for value, slope in zip(x, expected, strict=True):
        s = scale.clone().requires_grad_()
        y = fake_uniform(value, s, torch.zeros((), dtype=torch.float64), -8, 7, round_ste)
        y.backward()  # type: ignore[no-untyped-call]
        assert s.grad is not None and abs(s.grad.item() - slope) < 1e-12


def test_straight_through_inside_and_nothing_outside() -> None:
    x = torch.tensor([-9.0, -0.33, 0.26, 9.0], requires_grad=True)
    fake_uniform(x, torch.tensor(0.25), torch.zeros(()), -8, 7, round_ste).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 0]


@given(st.floats(1e-6, 1e6), st.floats(1e-6, 10))
def test_scale_gradient_changes_only_the_gradient(value: float, factor: float) -> None:
    scale = torch.tensor(value, requires_grad=True)
    same = scale_gradient(scale, factor)
    assert torch.equal(same, scale)
    (grad,) = torch.autograd.grad(same * 3, scale)
    assert abs(grad.item() - 3 * factor) <= 1e-6 * factor


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log2_is_exact_on_powers_of_two(dtype: torch.dtype) -> None:
    x = torch.tensor([2.0**-k for k in range(15)], dtype=dtype)
    for scale in (1.0, 0.25, 4.0):
        scale_tensor = torch.tensor(scale, dtype=dtype)
        assert torch.equal(fake_log2(x * scale, scale_tensor, 14, round_ste), x * scale)
        assert log2_codes(x * scale, scale_tensor, 14, round_ste).tolist() == list(range(15))


def test_log2_small_values_zero_and_negative_become_zero() -> None:
    scale = torch.tensor(1.0)
    x = torch.tensor([2.0**-4, 2.0**-4.4, 2.0**-4.6, 2.0**-5, 2.0**-30, 0.0, -1.0])
    assert fake_log2(x, scale, 4, round_ste).tolist() == [2.0**-4, 2.0**-4, 0, 0, 0, 0, 0]
    assert log2_codes(x, scale, 4, round_ste).tolist() == [4, 4, 5, 5, 5, 5, 5]
    assert fake_log2(torch.zeros(1), scale, 2**16 - 2, round_ste).tolist() == [0]


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=40), st.integers(1, 6))
def test_laws_of_the_log2_grid(values: list[float], bits: int) -> None:
    x, scale = torch.tensor(values, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)
    hi = 2**bits - 2
    y = fake_log2(x, scale, hi, round_ste)
    assert torch.equal(fake_log2(y, scale, hi, round_ste), y)
    assert len(set(y.tolist())) <= 2**bits
    assert (y[x.argsort()].diff() >= 0).all()
    positive = y > 0
    assert (torch.log2(y[positive] / x[positive]).abs() <= 0.5 + 1e-9).all()


def test_log2_gradient_is_straight_through_in_the_exponent() -> None:
    x = torch.tensor([0.9, 0.3, 0.05, 1e-6, 0.0], dtype=torch.float64, requires_grad=True)
    y = fake_log2(x, torch.tensor(1.0, dtype=torch.float64), 6, round_ste)
    y.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad[3:].tolist() == [0, 0]
    assert torch.allclose(x.grad[:3], (y / x)[:3].detach())
