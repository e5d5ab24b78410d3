"""Planted copies are found, fresh images are not."""

from __future__ import annotations

import torch

from dmq_cli.zoo import memorisation
from dmq_cli.zoo.memory import nearest_distance


def test_distance_by_hand() -> None:
    images, others = torch.zeros(1, 1, 2, 2), torch.stack([torch.full((1, 2, 2), 3.0), torch.full((1, 2, 2), -2.0)])
    assert torch.allclose(nearest_distance(images, others), torch.tensor([2.0]))


def test_planted_copies_are_counted() -> None:
    generator = torch.Generator().manual_seed(0)
    train, unseen, fresh = (torch.randn(300, 1, 4, 4, generator=generator) for _ in range(3))
    mixed = torch.cat([train[:75] + 1e-3, fresh[75:]])
    assert memorisation(fresh, train, unseen)["copies"] < 0.04
    result = memorisation(mixed, train, unseen)
    assert 0.25 <= result["copies"] < 0.29
    assert result["median_sample"] < memorisation(fresh, train, unseen)["median_sample"]
