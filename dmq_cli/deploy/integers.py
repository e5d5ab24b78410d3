"""The form of a lowered layer for runtimes that are given integers, not numbers that are integers times a scale:

    y = sum over weights of ((q - z) (w + d)) (s v) + b,   q = clamp(round(x / s) + z),

with u8 codes q from 0 on and s8 integers w, one scale v and one offset d for each output channel. Scales that change with the step are inputs
of the product like constant ones, so that there is one form for both. What multiplies is the backend's (`multiply`).
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dmq_cli.deploy.integer_layer import Piece, cut, offsets
from dmq_cli.wrap import QuantMixin


class IntegerPiece(Piece, abc.ABC):
    """One input with one weight, as codes and integers."""

    attention = False
    sums = False

    def _take(self, layer: QuantMixin, integers: Tensor, scale: Tensor, limit: int) -> None:
        (quantizer,) = self.simulated
        offset = offsets(integers, limit)
        self.weights = nn.ModuleList(
            self._weight(part, scale * 2**shift, offset) for shift, part in cut(integers - offset, limit)
        )
        self.source = quantizer.scale
        self.lo, self.levels = quantizer.grid.lo, quantizer.grid.hi - quantizer.grid.lo + 1

    def _weight(self, integers: Tensor, scale: Tensor, offset: Tensor) -> IntegerWeight:
        return IntegerWeight(integers, scale, offset)

    @abc.abstractmethod
    def multiply(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[Tensor]:
        """Quantize x by scale and zero point of codes from 0 on, () float, and multiply its codes with each weight; without the bias."""

    @property
    def products(self) -> int:
        """See Piece."""
        return len(self.weights)

    def forward(self, x: Tensor) -> Tensor:
        """The part of the layer's output, without the bias."""
        scale, zero_point = self.source(x)
        outputs: Iterator[Tensor] = self.multiply(x, scale.reshape(()), (zero_point - self.lo).reshape(()))
        return functools.reduce(torch.add, outputs)

    def of_zero(self, x: Tensor) -> Tensor | None:
        """See Piece: zero points are taken off in the product."""
        return None

    def quantized(self, x: Tensor) -> Tensor:
        """The codes of x, from 0 on."""
        scale, zero_point = self.source(x)
        codes: Tensor = (torch.round(x / scale) + (zero_point - self.lo)).clamp(0, self.levels - 1)
        return codes

    def code_differences(self, x: Tensor, quantized: Tensor) -> Tensor:
        """See IntegerLayer."""
        (quantizer,) = self.simulated
        return (quantized - (quantizer.codes(x) - self.lo)).abs()


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
