"""The written-out gradients are those that autograd gives for the same chain, bit for bit, so learning ends where it did."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from torch import Tensor

from dmq_cli.ops import fake_uniform, round_ste, uniform_codes
from dmq_cli.ops.straight_through import straight_through

IMAGES, WEIGHTS, TOKENS = (8, 16, 12, 12), (32, 16, 3, 3), (8, 24, 16)
SHAPES = [
    (IMAGES, ()),
    (IMAGES, (1,)),
    (IMAGES, (8, 1, 1, 1)),
    (IMAGES, (1, 16, 1, 1)),
    (WEIGHTS, ()),
    (WEIGHTS, (32, 1, 1, 1)),
    (TOKENS, (8, 1, 1)),
    (TOKENS, TOKENS),
]
Chain = Callable[[Tensor, Tensor, Tensor, int, int], Tensor]


def by_autograd(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
    return (uniform_codes(x, scale, zero_point, lo, hi, round_ste) - zero_point) * scale


def across(x: Tensor, moved: bool) -> Tensor:
    """The same values with two dimensions swapped in memory, as attention and channels-last have them."""
    return x.transpose(1, -1).contiguous().transpose(1, -1) if moved else x


def results(chain: Chain, x: Tensor, scale: Tensor, low: Tensor, weight: Tensor) -> list[Tensor]:
    """What the chain gives, and the gradients by x, by the scale, which the zero point follows as in low_learned, and by the lower end."""
    leaves = [tensor.detach().requires_grad_() for tensor in (x, scale, low)]
    zero_point = torch.clamp(round_ste(-leaves[2] / leaves[1]), 0, 15)
    y = chain(leaves[0], leaves[1], zero_point, 0, 15)
    return [y.detach(), *torch.autograd.grad((y * weight).sum(), leaves)]


def test_gradients_have_the_bits_of_autograd_in_every_layout() -> None:
    compared = 0
    for seed, (shape, of_scale), moved_x, moved_gradient in product(range(3), SHAPES, (False, True), (False, True)):
        generator = torch.Generator().manual_seed(seed)
        x, weight = (across(torch.randn(shape, generator=generator) * 2, moved) for moved in (moved_x, moved_gradient))
        scale = torch.rand(of_scale, generator=generator) * 0.2 + 0.1
        low = -torch.rand(of_scale, generator=generator)
        expected, here = (results(chain, x, scale, low, weight) for chain in (by_autograd, straight_through))
        for theirs, ours in zip(expected, here, strict=True):
            assert torch.equal(theirs, ours) and theirs.stride() == ours.stride(), (shape, of_scale, moved_x)
        assert 0.05 < (expected[1] == 0).float().mean() < 0.95  # both inside and outside of the range
        compared += len(here)
    assert compared == 3 * len(SHAPES) * 4 * 4


@pytest.mark.parametrize("needed", [(True, False), (False, True)])
def test_only_what_is_asked_for_gets_a_gradient(needed: tuple[bool, bool]) -> None:
    x, scale = (torch.tensor(value, requires_grad=flag) for value, flag in zip((0.3, 0.25), needed, strict=True))
    fake_uniform(x, scale, torch.tensor(0.0), -8, 7).backward()  # type: ignore[no-untyped-call]
    assert (x.grad is not None, scale.grad is not None) == needed


def test_a_gradient_can_be_asked_for_twice() -> None:
    x, scale = torch.randn(50, requires_grad=True), torch.tensor(0.25, requires_grad=True)
    y = fake_uniform(x, scale, torch.tensor(0.0), -8, 7).square().sum()
    first = torch.autograd.grad(y, [x, scale], retain_graph=True)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(y, [x, scale]), strict=True))


def test_learning_goes_this_way() -> None:
    x = torch.randn(5, requires_grad=True)
    y = fake_uniform(x, torch.tensor(0.25), torch.tensor(0.0), -8, 7)
    assert y.grad_fn is not None and "FakeUniform" in type(y.grad_fn).__name__
