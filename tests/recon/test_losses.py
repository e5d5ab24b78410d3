from __future__ import annotations

import pytest
import torch

from dmq_cli.recon.losses import beta_schedule, lp_loss


def test_lp_loss_by_hand() -> None:
    output = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)
    target = torch.zeros_like(output)
    # sums over dim 1 are 1+9, 4+16, 0, 1 for p = 2
    assert float(lp_loss(output, target, 2.0)) == pytest.approx((10 + 20 + 0 + 1) / 4)
    assert float(lp_loss(-output, target, 1.0)) == pytest.approx((4 + 6 + 0 + 1) / 4)
    assert float(lp_loss(output[:, :, :1], target[:, :, :1], 2.4)) == pytest.approx((1 + 3**2.4) / 2)


def test_beta_by_hand() -> None:
    found = [beta_schedule(i, 11, 0.2, 20.0, 2.0) for i in range(11)]
    assert found[:2] == [None, None]
    assert found[2:] == pytest.approx([20 - 18 * i / 8 for i in range(9)])
    assert beta_schedule(0, 1, 0.0, 20.0, 2.0) == 20.0
    assert beta_schedule(19_999, 20_000, 0.2, 20.0, 2.0) == pytest.approx(2.0)
    assert beta_schedule(3_999, 20_000, 0.2, 20.0, 2.0) is None
    assert beta_schedule(4_000, 20_000, 0.2, 20.0, 2.0) == 20.0
