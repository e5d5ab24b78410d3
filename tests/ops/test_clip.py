"""Clipping gives the values and gradients of comparisons and torch.where, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from dmq_cli.ops.clip import clip_to, noisy_clip
from tests.ops.test_straight_through import IMAGES, SHAPES, across

Chain = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_where(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return torch.where(x > high, high, torch.where(x < low, low, x))


def noisy_by_where(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    noisy = torch.addcmul(x, torch.rand_like(x) - 0.5, high)
    return torch.where(x > high, high, torch.where(x < low, low, noisy))


def noisy(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    return noisy_clip(x, low, high, torch.rand_like(x) - 0.5, high)


@pytest.mark.parametrize("chains", [(by_where, clip_to), (noisy_by_where, noisy)])
def test_values_and_gradients_have_the_bits_of_autograd_in_every_layout(chains: tuple[Chain, Chain]) -> None:
    compared = 0
    for seed, (shape, of_ends), moved_x, moved_gradient in product(range(3), SHAPES, (False, True), (False, True)):
        generator = torch.Generator().manual_seed(seed)
        x, weight = (across(torch.randn(shape, generator=generator), moved) for moved in (moved_x, moved_gradient))
        ends = [torch.rand(of_ends, generator=generator) + 0.1 for _ in range(2)]
        results = []
        for chain in chains:
            leaves = [tensor.detach().requires_grad_() for tensor in (x, -ends[0], ends[1])]
            torch.manual_seed(seed)
            y = chain(*leaves)
            results.append([y.detach(), *torch.autograd.grad((y * weight).sum(), leaves)])
        for theirs, here in zip(*results, strict=True):
            assert torch.equal(theirs, here) and theirs.stride() == here.stride(), (shape, of_ends, moved_x)
            compared += 1
        assert 0.05 < (results[0][1] == 0).float().mean() < 0.95  # both inside and outside of the range
    assert compared == 3 * len(SHAPES) * 4 * 4


def test_what_lies_on_an_end_is_inside() -> None:
    x = torch.tensor([-0.5, 0.0, 0.5, 1.0, 1.5], dtype=torch.float64, requires_grad=True)
    low, high = (torch.tensor(end, dtype=torch.float64, requires_grad=True) for end in (0.0, 1.0))
    clip_to(x, low, high).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and x.grad.tolist() == [0, 1, 1, 1, 0]
    assert low.grad is not None and low.grad == 1 and high.grad is not None and high.grad == 1


def test_gradients_agree_with_finite_differences() -> None:
    x = torch.randn(IMAGES[:2], dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    low, high = (torch.tensor(end, dtype=torch.float64, requires_grad=True) for end in (-0.7, 0.9))
    assert torch.autograd.gradcheck(clip_to, (x, low, high))
