from __future__ import annotations

import numpy as np
import pytest
import torch

from dmq_cli.errors import ConfigError
from dmq_cli.quant import FixedRound, Nearest, SignRound, SoftRound, Static, TensorQuantizer, Uniform


def weight_and_scale(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scale = weight.abs().amax((1, 2, 3), keepdim=True) / 7
    return weight.to(dtype), scale.to(dtype)


def test_soft_rounding_starts_at_full_precision_inside_the_range() -> None:
    weight, scale = weight_and_scale()
    rounding = SoftRound(weight / scale)
    quantizer = TensorQuantizer(Uniform(4, symmetric=True), Static(scale, 0.0), rounding)
    assert (rounding(weight / scale) - weight / scale).abs().max() < 1e-6
    assert ((quantizer(weight) - weight) / scale).abs().max() < 1e-6


def test_hard_rounding_starts_as_nearest_and_freezes() -> None:
    weight, scale = weight_and_scale()
    nearest = TensorQuantizer(Uniform(4, symmetric=True), Static(scale, 0.0), Nearest())
    rounding = SoftRound(weight / scale)
    quantizer = TensorQuantizer(Uniform(4, symmetric=True), Static(scale, 0.0), rounding)
    rounding.hard = True
    assert torch.equal(quantizer(weight), nearest(weight))
    quantizer.rounding = rounding.frozen()
    assert torch.equal(quantizer(weight), nearest(weight))
    assert torch.equal(quantizer.codes(weight), nearest.codes(weight))


def test_alpha_is_finite_and_alive_on_the_grid() -> None:
    for dtype in (torch.float32, torch.float64):
        u = torch.tensor([-2.0, 0.0, 0.5, 3.0, 0.999999999], dtype=dtype)
        rounding = SoftRound(u)
        assert rounding.alpha.isfinite().all()
        rounding(u).sum().backward()
        assert rounding.alpha.grad is not None and (rounding.alpha.grad > 0).all()


def test_hard_follows_the_sign_of_alpha() -> None:
    rounding = SoftRound(torch.zeros(4))
    rounding.alpha.data = torch.tensor([-5.0, -1e-3, 0.0, 5.0])
    rounding.hard = True
    u = torch.tensor([0.9, -1.5, 2.0, 0.1])
    assert rounding(u).tolist() == [0, -2, 3, 1]
    assert rounding.frozen()(u).tolist() == [0, -2, 3, 1]


def test_regulariser_by_hand() -> None:
    rounding = SoftRound(torch.zeros(3, dtype=torch.float64))
    # h = 1.2 sigmoid(alpha) - 0.1: 0.5 at 0; 1 beyond; 0.8 at sigmoid = 0.75
    rounding.alpha.data = torch.tensor([0.0, 50.0, torch.logit(torch.tensor(0.75)).item()]).double()
    assert torch.allclose(rounding.h(), torch.tensor([0.5, 1.0, 0.8]).double())
    assert abs(rounding.regulariser(2.0).item() - (1 + 0 + 1 - 0.36)) < 1e-6
    assert abs(rounding.regulariser(20.0).item() - (1 + 0 + 1 - 0.6**20)) < 1e-6
    (grad,) = torch.autograd.grad(rounding.regulariser(2.0), rounding.alpha)
    assert grad.isfinite().all() and grad[2] < 0 and grad[1] == 0


def test_learning_alpha_lowers_a_loss() -> None:
    u = torch.full((20,), 0.4)
    rounding = SoftRound(u)
    optimizer = torch.optim.Adam([rounding.alpha], 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (rounding(u) - 1).pow(2).sum().backward()
        optimizer.step()
    assert rounding.frozen().up.all()


def test_offsets_start_as_nearest_bit_for_bit() -> None:
    weight, scale = weight_and_scale()
    u = torch.cat([(weight / scale).flatten(), torch.arange(-20, 20) / 4.0])  # with ties
    assert torch.equal(SignRound(u)(u), Nearest()(u)) and torch.equal(SignRound(u).frozen()(u), Nearest()(u))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_learned_offset_moves_to_the_nearest_of_two_integers_and_freezes(dtype: torch.dtype) -> None:
    """SignRound, eq. 3: round(W / s + V), V in [-0.5, 0.5]; the decision of ties stays within one of W / s."""
    generator = torch.Generator().manual_seed(0)
    u = (torch.randn(4000, generator=generator, dtype=torch.float64) * 5).to(dtype)
    u[:1000] = torch.arange(1000).remainder(41).sub(20).to(dtype) / 2  # on the grid and halfway
    rounding = SignRound(u)
    offset = (torch.rand(4000, generator=generator, dtype=torch.float64) * 1.6 - 0.8).to(dtype)
    offset[:500] = torch.tensor([-0.5, 0.5]).repeat(250).to(dtype)
    rounding.offset.data.copy_(offset)
    rounded = rounding(u).detach()
    exact = u.double().numpy() + np.clip(offset.double().numpy(), -0.5, 0.5)
    apart = np.abs(exact - np.floor(exact) - 0.5)
    clear = apart > 1e-5
    np.testing.assert_array_equal(rounded.double().numpy()[clear], np.round(exact)[clear])
    assert 3000 < clear.sum() < 4000 and torch.equal(rounded, rounded.round())
    assert bool(((rounded >= u.floor()) & (rounded <= u.floor() + 1)).all())
    assert torch.equal(rounding.frozen()(u), rounded), "frozen is what it was, on ties too"


def test_the_gradient_passes_straight_to_the_offsets_within_their_bounds() -> None:
    u = torch.tensor([0.2, 1.7, -0.4, 3.0], dtype=torch.float64, requires_grad=True)
    rounding = SignRound(u)
    rounding.offset.data.copy_(torch.tensor([0.1, -0.3, 0.7, -0.9]))
    rounding(u).backward(torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
    assert u.grad is not None and u.grad.tolist() == [1, 2, 3, 4]
    assert rounding.offset.grad is not None and rounding.offset.grad.tolist() == [1, 2, 0, 0]


def test_learned_rounding_fits_one_shape() -> None:
    zeros = torch.zeros(2, 3)
    for rounding in (SoftRound(zeros), SignRound(zeros), FixedRound(zeros.bool())):
        with pytest.raises(ConfigError, match=r"shape \(3,\), it was made for \(2, 3\); learned"):
            rounding(torch.zeros(3))


def test_fixed_rounding_is_kept_in_the_state_dict() -> None:
    rounding = FixedRound(torch.tensor([True, False]))
    other = FixedRound(torch.zeros(2, dtype=torch.bool))
    other.load_state_dict(rounding.state_dict())
    assert other.up.dtype == torch.bool and other(torch.tensor([0.5, 0.5])).tolist() == [1, 0]
    assert rounding.double().up.dtype == torch.bool
