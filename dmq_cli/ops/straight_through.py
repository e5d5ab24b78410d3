"""Fake quantization by a uniform grid with its gradients written out: what autograd gives, bit for bit, in half the time.

Source: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153 (eq. 3). With u = x/s, the code c = clamp(round(u) + z, lo, hi)
and y = (c - z) s, rounding passes gradients on as they are, and inside is where round(u) + z lies in [lo, hi]:
dy/dx = 1 inside; dy/ds = c - z, less u inside; dy/dz = -s, plus s inside; 0 elsewhere.
Autograd of the same chain keeps three tensors of x's size and walks them twenty times, of which this does half, in place.
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
        codes = torch.div(x, scale).round_().add_(zero_point)
        outside = (codes >= lo).logical_and_(codes <= hi).logical_not_()  # of NaN, too
        codes.clamp_(lo, hi).sub_(zero_point)
        ctx.save_for_backward(x, scale, zero_point, codes, outside)
        return codes * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # In the order and the memory layouts of autograd, so that roundings and sums are the same, too.
        x, scale, zero_point, codes, outside = ctx.saved_tensors
        by_x, by_scale, by_zero_point, _, _ = ctx.needs_input_grad
        (gradient,) = gradients
        by_codes = gradient * scale
        moved = by_codes.sum_to_size(zero_point.shape).neg() if by_zero_point else None  # a tensor of its own
        alike = by_codes.stride() == outside.stride()
        by_codes = by_codes.masked_fill_(outside, 0) if alike else torch.where(outside, 0.0, by_codes)
        return (
            by_codes / scale if by_x else None,
            _by_scale(x, scale, gradient * codes, by_codes) if by_scale else None,
            by_codes.sum_to_size(zero_point.shape) + moved if moved is not None else None,
            None,
            None,
        )


def _by_scale(x: Tensor, scale: Tensor, of_values: Tensor, by_codes: Tensor) -> Tensor:
    of_codes = torch.div(x, scale).div_(scale).mul_(by_codes)
    return of_values.sum_to_size(scale.shape) - of_codes.sum_to_size(scale.shape)
