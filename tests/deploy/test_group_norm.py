"""Group normalisation in sums: the numbers of torch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dmq_cli.deploy.group_norm import GroupNormBySums, in_sums


@pytest.mark.parametrize("shape", [(3, 12, 5, 4), (2, 12, 7), (1, 12, 1, 2)])
@pytest.mark.parametrize("groups", [1, 3, 12])
@pytest.mark.parametrize("affine", [True, False])
def test_the_numbers_are_those_of_torch(shape: tuple[int, ...], groups: int, affine: bool) -> None:
    norm = nn.GroupNorm(groups, 12, eps=1e-6, affine=affine).double()
    if affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 2
    assert torch.allclose(
        GroupNormBySums(norm).double()(x), norm(x), rtol=1e-6, atol=1e-6 if x[0, 0].numel() > 1 else 1e-3
    )


@pytest.mark.parametrize(("mean", "spread"), [(100.0, 0.1), (-1000.0, 1.0), (10.0, 1e-2), (0.0, 1.0)])
def test_a_mean_far_from_zero_costs_few_digits(mean: float, spread: float) -> None:
    norm = nn.GroupNorm(3, 12)
    x = mean + spread * torch.randn(2, 12, 8, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    x = x.float()
    expected = nn.functional.group_norm(x.double(), 3, eps=norm.eps)
    assert (GroupNormBySums(norm)(x) - expected).abs().max() < 1e-3


def test_what_does_not_vary_stays_finite() -> None:
    norm = nn.GroupNorm(2, 4)
    for level in (0.0, 0.1, 333.3, 1e6):
        normalised = GroupNormBySums(norm)(torch.full((2, 4, 9, 7), level))
        assert normalised.isfinite().all()
    small = GroupNormBySums(norm)(torch.full((2, 4, 9, 7), 0.1))
    assert small.abs().max() < 1e-3


def test_every_norm_of_a_network_is_replaced() -> None:
    network = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Sequential(nn.GroupNorm(2, 4), nn.SiLU()), nn.GroupNorm(4, 4))
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    expected = network(x)
    in_sums(network)
    assert not any(isinstance(module, nn.GroupNorm) for module in network.modules())
    assert sum(isinstance(module, GroupNormBySums) for module in network.modules()) == 2
    assert torch.allclose(network(x), expected, atol=1e-5)
