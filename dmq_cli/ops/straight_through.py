"""Fake quantization by a uniform grid with its gradients written out: what autograd gives, bit for bit, in half the time.

Source: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153 (eq. 3). With u = x/s, the code c = clamp(round(u) + z, lo, hi)
and y = (c - z) s, rounding passes gradients on as they are, and inside is where round(u) + z lies in [lo, hi]:
dy/dx = 1 inside; dy/ds = c - z, less u inside; dy/dz = -s, plus s inside; 0 elsewhere.
Autograd of the same chain keeps three tensors of x's size and walks them twenty times; this keeps two and walks them half as often, in place.
One deviation: where x is NaN, and so is y, the gradient is passed on, while autograd's is 0.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def straight_through(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
    """Quantize to the nearest codes in [lo, hi] and back, as `ops.fake_uniform`. x, scale, zero_point: of one dtype, the last two
    broadcastable to x."""
    quantized: Tensor = _FakeUniform.apply(x, scale, zero_point, lo, hi)  # type: ignore[no-untyped-call]
    return quantized


class _FakeUniform(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
        unclamped = torch.div(x, scale).round_().add_(zero_point)
        ctx.save_for_backward(x, scale, zero_point, unclamped)
        ctx.bounds = lo, hi
        return unclamped.clamp(lo, hi).sub_(zero_point).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # In the order and the memory layouts of autograd, so that roundings and sums are the same, too.
        _, scale, zero_point, unclamped = ctx.saved_tensors
        by_x, by_scale, by_zero_point, _, _ = ctx.needs_input_grad
        (gradient,) = gradients
        unmasked = gradient * scale
        moved = unmasked.sum_to_size(zero_point.shape).neg() if by_zero_point else None  # a tensor of its own
        by_codes = _inside(unmasked, unclamped, *ctx.bounds)
        of_scale = _by_scale(ctx, gradient, by_codes, unmasked) if by_scale else None
        of_zero_point = None if moved is None else by_codes.sum_to_size(zero_point.shape) + moved
        return by_codes.div_(scale) if by_x else None, of_scale, of_zero_point, None, None


def _inside(gradient: Tensor, unclamped: Tensor, lo: int, hi: int) -> Tensor:
    """Set to 0 what is outside of the range, in a new tensor laid out like the codes: the gradient of hardtanh is that in one walk."""
    inside = torch.empty_like(unclamped)
    torch.ops.aten.hardtanh_backward.grad_input(gradient, unclamped, lo - 0.5, hi + 0.5, grad_input=inside)
    return inside


def _by_scale(ctx: Any, gradient: Tensor, by_codes: Tensor, spare: Tensor) -> Tensor:
    """Sum g (c - z) less u times what is inside. spare: laid out like the gradient, overwritten."""
    x, scale, zero_point, unclamped = ctx.saved_tensors
    of_values = torch.clamp(unclamped, *ctx.bounds, out=spare).sub_(zero_point).mul_(gradient)
    of_codes = torch.div(x, scale).div_(scale).mul_(by_codes)
    return of_values.sum_to_size(scale.shape) - of_codes.sum_to_size(scale.shape)
