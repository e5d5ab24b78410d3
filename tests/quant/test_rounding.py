from __future__ import annotations

import pytest
import torch

from dmq_cli.errors import ConfigError
from dmq_cli.quant import FixedRound, Nearest, SoftRound, Static, TensorQuantizer, Uniform


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


def test_learned_rounding_fits_one_shape() -> None:
    for rounding in (SoftRound(torch.zeros(2, 3)), FixedRound(torch.zeros(2, 3, dtype=torch.bool))):
        with pytest.raises(ConfigError, match=r"shape \(3,\), it was made for \(2, 3\); learned"):
            rounding(torch.zeros(3))


def test_fixed_rounding_is_kept_in_the_state_dict() -> None:
    rounding = FixedRound(torch.tensor([True, False]))
    other = FixedRound(torch.zeros(2, dtype=torch.bool))
    other.load_state_dict(rounding.state_dict())
    assert other.up.dtype == torch.bool and other(torch.tensor([0.5, 0.5])).tolist() == [1, 0]
    assert rounding.double().up.dtype == torch.bool
