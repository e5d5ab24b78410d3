"""The form of a lowered layer for runtimes that are given integers, not numbers that are integers times a scale:

    y = sum over weights of ((q - z) (w + d)) (s v) + b,   q = clamp(round(x / s) + z),

with u8 codes q from 0 on and s8 integers w, one scale v and one offset d for each output channel. Scales that change with the step are inputs
of the product like constant ones, so that there is one form for both. What multiplies is the backend's (`products`).
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from dmq_cli.deploy.lower import Piece, cut
from dmq_cli.quant import TensorQuantizer
from dmq_cli.wrap import QuantMixin

_EXACT = 127


class IntegerPiece(Piece, abc.ABC):
    """One input with one weight, as codes and integers."""

    def _take(self, layer: QuantMixin, source: nn.Module, weights: nn.Module, weight: Tensor, limit: int) -> None:
        quantizer, weight_quantizer = cast(TensorQuantizer, source), cast(TensorQuantizer, weights)
        scale, zero_point = weight_quantizer.scale(weight)
        integers = weight_quantizer.codes(weight) - zero_point
        offset = _offset(integers, limit)
        parts = [(0, integers - offset)] if _fits(integers - offset, limit) else list(cut(integers, limit))
        self.weights = nn.ModuleList(self._weight(part, scale * 2**shift, offset) for shift, part in parts)
        self.simulated, self.source = (quantizer,), quantizer.scale
        self.lo, self.levels = quantizer.grid.lo, quantizer.grid.hi - quantizer.grid.lo + 1

    def _weight(self, integers: Tensor, scale: Tensor, offset: Tensor) -> IntegerWeight:
        return IntegerWeight(integers, scale, offset)

    @abc.abstractmethod
    def products(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[Tensor]:
        """Quantize x by scale and zero point of codes from 0 on, () float, and multiply its codes with each weight; without the bias."""

    def forward(self, x: Tensor) -> Tensor:
        """The part of the layer's output, without the bias."""
        scale, zero_point = self.source(x)
        outputs: Iterator[Tensor] = self.products(x, scale.reshape(()), (zero_point - self.lo).reshape(()))
        return functools.reduce(torch.add, outputs)

    def code_differences(self, x: Tensor) -> Tensor:
        """See IntegerLayer; rows of x may be at different steps."""
        (quantizer,) = self.simulated
        scale, zero_point = self.source(x)
        codes: Tensor = (torch.round(x / scale) + (zero_point - self.lo)).clamp(0, self.levels - 1)
        return (codes - (quantizer.codes(x) - self.lo)).abs()


class IntegerWeight(nn.Module):
    """Integers within -128..127 as int8, less an offset within -127..128, and their scale; the latter two (O,) float."""

    integers: Tensor
    scale: Tensor
    offset: Tensor

    def __init__(self, integers: Tensor, scale: Tensor, offset: Tensor) -> None:
        super().__init__()
        by_channel = (len(integers), *(1,) * (integers.ndim - 1))
        self.register_buffer("integers", integers.to(torch.int8))
        self.register_buffer("scale", scale.expand(by_channel).flatten().clone())
        self.register_buffer("offset", offset.expand(by_channel).flatten().clone())


def _fits(integers: Tensor, limit: int) -> bool:
    return _least(limit) <= int(integers.min()) and int(integers.max()) <= limit


def _least(limit: int) -> int:
    return -limit - 1 if limit == _EXACT else -limit


def _offset(integers: Tensor, limit: int) -> Tensor:
    """The least by which the integers of each output channel have to be moved to fit; 0 for all where those of one span too much."""
    low, high = torch.aminmax(integers.flatten(1), dim=1)
    fits = bool((high - low <= limit - _least(limit)).all())
    offset = torch.zeros_like(low).clamp(high - limit, low - _least(limit)) if fits else torch.zeros_like(low)
    return offset.view(-1, *(1,) * (integers.ndim - 1))
