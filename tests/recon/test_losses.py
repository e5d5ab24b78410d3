from __future__ import annotations

import pytest
import torch

from dmq_cli.recon.losses import beta_schedule, channel_loss, lp_loss, mean_error


def test_lp_loss_by_hand() -> None:
    output = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    target = torch.zeros_like(output)
    # sums over dim 1 are 1+9, 4+16, 0, 1 for p = 2
    assert float(lp_loss(output, target, 2.0)) == pytest.approx((10 + 20 + 0 + 1) / 4)
    assert float(lp_loss(-output, target, 1.0)) == pytest.approx((4 + 6 + 0 + 1) / 4)
    assert float(lp_loss(output[:, :, :1], target[:, :, :1], 2.4)) == pytest.approx((1 + 3**2.4) / 2)


def test_the_sum_over_channels_is_the_same_in_every_layout() -> None:
    generator = torch.Generator().manual_seed(0)
    output, target = (torch.randn(3, 5, 2, 4, generator=generator, dtype=torch.float64) for _ in range(2))
    expected = sum(
        abs(float(output[b, c, i, j] - target[b, c, i, j])) ** 2.4
        for b in range(3) for c in range(5) for i in range(2) for j in range(4)
    ) / (3 * 2 * 4)  # fmt: skip
    tokens = [x.flatten(2).transpose(1, 2) for x in (output, target)]
    assert float(channel_loss(output, target, 2.4)) == pytest.approx(expected, rel=1e-12)
    assert float(channel_loss(tokens[0], tokens[1], 2.4)) == pytest.approx(expected, rel=1e-12)
    assert float(lp_loss(tokens[0], tokens[1], 2.4)) == pytest.approx(expected * 8 / 5, rel=1e-12)
    flat = [x[:, :, 0, 0] for x in (output, target)]
    assert torch.equal(channel_loss(flat[0], flat[1], 2.0), lp_loss(flat[0], flat[1], 2.0))


def test_the_mean_error_by_hand() -> None:
    target = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    timesteps = torch.tensor([7, 500, 7, 7, 500])
    expected = 0.0
    for timestep, count in ((7, 3), (500, 2)):
        rows = error[timesteps == timestep]
        expected += count / 5 * sum(float(rows[:, channel].mean()) ** 2 for channel in range(2))
    loss = mean_error(target + error, target, timesteps)
    assert float(loss) == pytest.approx(expected, rel=1e-12)
    tokens = [x.flatten(2).transpose(1, 2) for x in (target + error, target)]  # the same as (B, places, C)
    assert float(mean_error(tokens[0], tokens[1], timesteps)) == pytest.approx(expected, rel=1e-12)
    flat = [x[:, :, 0, 0] for x in (target + error, target)]
    expected = sum(
        c / 5 * float(error[timesteps == t][:, :, 0, 0].mean(0).square().sum()) for t, c in ((7, 3), (500, 2))
    )
    assert float(mean_error(flat[0], flat[1], timesteps)) == pytest.approx(expected, rel=1e-12)


def test_what_cancels_within_a_timestep_is_no_mean_error() -> None:
    target, shift = torch.zeros(4, 2, 3, 3, dtype=torch.float64), torch.ones(4, 2, 3, 3, dtype=torch.float64)
    signs = torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None, None]
    paired, apart = torch.tensor([1, 1, 9, 9]), torch.tensor([1, 9, 1, 9])
    assert float(mean_error(target + signs * shift, target, paired)) == 0
    assert float(mean_error(target + signs * shift, target, apart)) == 2
    assert (
        float(mean_error(target + shift, target, paired)) == float(mean_error(target + shift, target, paired[:1])) == 2
    )


def test_beta_by_hand() -> None:
    betas = [beta_schedule(i, 11, 0.2, 20.0, 2.0) for i in range(11)]
    assert betas[:2] == [None, None]
    assert betas[2:] == pytest.approx([20 - 18 * i / 8 for i in range(9)])
    assert beta_schedule(0, 1, 0.0, 20.0, 2.0) == 20.0
    assert beta_schedule(19_999, 20_000, 0.2, 20.0, 2.0) == pytest.approx(2.0)
    assert beta_schedule(3_999, 20_000, 0.2, 20.0, 2.0) is None
    assert beta_schedule(4_000, 20_000, 0.2, 20.0, 2.0) == 20.0
