"""Quantizers as the one operator that runtimes know."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from dmq_cli.quant import Static, TensorQuantizer, Uniform


@torch.library.custom_op("dmq::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """x on `levels` equally spaced values from low to high, which broadcast to x: the operator that exporters translate."""
    scale = (high - low) / (levels - 1)
    return torch.round((torch.minimum(torch.maximum(x, low), high) - low) / scale) * scale + low


@fake_quantize.register_fake
def _(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    return torch.empty_like(x)


def is_static(quantizer: nn.Module) -> bool:
    """Whether a quantizer has one scale for everything, and a uniform grid."""
    return (
        isinstance(quantizer, TensorQuantizer)
        and isinstance(quantizer.grid, Uniform)
        and type(quantizer.scale) is Static
        and quantizer.scale.scale.numel() == 1
    )


class StaticQuantizer(nn.Module):
    """A quantizer with constant ends, as the one operator that runtimes know. It counts as enabled."""

    low: Tensor
    high: Tensor
    enabled = True
    parts: tuple[nn.Module, ...] = ()

    def __init__(self, quantizer: TensorQuantizer) -> None:
        super().__init__()
        scale, zero_point = quantizer.scale(torch.zeros(()))
        grid = quantizer.grid
        self.register_buffer("low", ((grid.lo - zero_point) * scale).reshape(()))
        self.register_buffer("high", ((grid.hi - zero_point) * scale).reshape(()))
        self.levels = grid.hi - grid.lo + 1

    def forward(self, x: Tensor) -> Tensor:
        """x, quantized and back."""
        quantized: Tensor = fake_quantize(x, self.low, self.high, self.levels)
        return quantized

    def codes(self, quantized: Tensor) -> Tensor:
        """The codes, from 0 on, of what `forward` gave."""
        return torch.round((quantized - self.low) * ((self.levels - 1) / (self.high - self.low)))


class TableQuantizer(nn.Module):
    """A quantizer whose scale may change with the step: x in units of that scale, moved by its zero point, is rounded on a constant grid.

    The grid begins at 0, or, signed, at minus half of its levels.
    """

    def __init__(self, quantizer: TensorQuantizer, signed: bool = False) -> None:
        super().__init__()
        self.source = quantizer.scale
        self.levels = quantizer.grid.hi - quantizer.grid.lo + 1
        self.first = -self.levels // 2 if signed else 0
        self.back = self.first - quantizer.grid.lo
        self.zero_is_zero = bool((cast(Any, self.source).zero_point + self.back == 0).all())

    def ends(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The scale, and the code of zero."""
        scale, zero_point = self.source(x)
        return scale, zero_point + self.back

    def forward(self, x: Tensor) -> Tensor:
        """The codes of x, from `first` on."""
        scale, zero = self.ends(x)
        ends = (torch.full((), float(end), dtype=x.dtype) for end in (self.first, self.first + self.levels - 1))
        codes: Tensor = fake_quantize(x / scale + zero, *ends, self.levels)
        return codes

    def codes(self, quantized: Tensor) -> Tensor:
        """The codes, from 0 on, of what `forward` gave."""
        return quantized - self.first
