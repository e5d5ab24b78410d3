"""Quantize to a grid of codes and back: uniform and log2, with straight-through gradients.

Sources: S. K. Esser et al., Learned Step Size Quantization, ICLR 2020, arXiv:1902.08153 (eq. 1-3 and
sec. 2.2); R. Krishnamoorthi, Quantizing deep convolutional networks for efficient inference, 2018,
arXiv:1806.08342 (sec. 2).

Deliberate deviation from LSQ: the code is clamped after rounding, so the gradient mask looks at the rounded
code. LSQ clips before rounding. Values are the same; gradients differ only for inputs within half a code
outside the range, where the mask here still says "inside", as in BRECQ, QDrop and torch's own fake quantize.
Learned rounding (AdaRound) needs this order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dmq_cli.ops.straight_through import straight_through

Rounding = Callable[[Tensor], Tensor]
"""From x/scale (real) to integers, or nearly integers, of the same shape."""


def smallest_scale(dtype: torch.dtype) -> float:
    """The least scale in use, 1e-8 or the dtype's least normal number; keeps x/scale and gradients finite."""
    return max(1e-8, torch.finfo(dtype).tiny)


def round_ste(x: Tensor) -> Tensor:
    """Round to the nearest integer, half to even; the gradient passes straight through. x: finite."""
    # Not an autograd.Function: compiling one warns (torch 2.13). The sum is exact, since round(x) - x is.
    return x + (torch.round(x) - x).detach()


def scale_gradient(scale: Tensor, factor: float) -> Tensor:
    """The same value, with its gradient multiplied by factor (Esser et al. 2020, LSQ, sec. 2.2)."""
    return scale.detach() + (scale - scale.detach()) * factor


def uniform_codes(
    x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int, rounding: Rounding = round_ste
) -> Tensor:
    """Integer-valued codes in [lo, hi], in a floating dtype: clamp(rounding(x/scale) + zero_point, lo, hi).

    x: any shape; scale > 0 and zero_point (integer-valued): broadcastable to x.
    """
    return torch.clamp(rounding(x / scale) + zero_point, lo, hi)


def fake_uniform(
    x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int, rounding: Rounding = round_ste
) -> Tensor:
    """Quantize to integers in [lo, hi] and back.

    x: any shape; scale > 0 and zero_point (integer-valued): broadcastable to x; rounding works on x/scale.
    Returns x's shape and dtype. With `round_ste` gradients pass straight through to x inside the range, and
    autograd gives the gradient of scale (Esser et al. 2020, LSQ, eq. 3; see the top of the file).
    Without gradients the same is computed in place, and with them by `ops.straight_through`, where nothing compiles it: equal for finite
    x/scale, except the sign of zeros.
    """
    if rounding is round_ste and not _differentiable(x, scale, zero_point):
        return _fake_uniform_in_place(x, scale, zero_point, lo, hi).to(x.dtype)
    if rounding is round_ste and x.dtype == scale.dtype == zero_point.dtype and not torch.compiler.is_compiling():
        return straight_through(x, scale, zero_point, lo, hi)
    codes = uniform_codes(x, scale, zero_point, lo, hi, rounding)
    return ((codes - zero_point) * scale).to(x.dtype)


def _differentiable(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(t.requires_grad for t in tensors)


def _fake_uniform_in_place(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
    codes = torch.div(x, scale).round_()
    # Two clamps: torch.clamp with two tensor bounds is not vectorized on CPU and ten times slower than both.
    return codes.clamp_min_(lo - zero_point).clamp_max_(hi - zero_point).mul_(scale)


def log2_codes(x: Tensor, scale: Tensor, hi: int, rounding: Rounding = round_ste) -> Tensor:
    """Codes c = rounding(-log2(x/scale)), clamped to [0, hi]; hi + 1 stands for zero.

    x: any shape, >= 0 (negative values become zero); scale > 0, broadcastable to x.
    Returns x's shape, integer-valued, in a floating dtype.
    """
    least = max(2.0 ** -(hi + 1), torch.finfo(x.dtype).tiny)
    u = torch.clamp_min(x / scale, least)
    codes = rounding(-torch.log2(u))
    return torch.where((codes <= hi) & (u > least), codes.clamp_min(0), hi + 1)


def fake_log2(x: Tensor, scale: Tensor, hi: int, rounding: Rounding = round_ste) -> Tensor:
    """Quantize to scale * 2^-c, c in [0, hi], or to 0 what is nearer (in the exponent) to scale * 2^-(hi+1).

    x: any shape, >= 0; scale > 0, broadcastable to x. Returns x's shape and dtype; exact on scale * 2^-c.
    With `round_ste` the gradient passes straight through in the exponent: dy/dx = y/x.
    """
    codes = log2_codes(x, scale, hi, rounding)
    return (scale * torch.exp2(-codes) * (codes <= hi)).to(x.dtype)
