"""The form of a lowered layer for runtimes that are given integers, not numbers that are integers times a scale:

    y = sum over weights of ((q - z) w) (s v) + b,   q = clamp(round(x / s) + z),

with u8 codes q from 0 on and s8 integers w, one scale v for each output channel. Scales that change with the step are inputs of the product
like constant ones, so that there is one form for both. What multiplies is the backend's (`products`).
"""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from dmq_cli.deploy.lower import Piece


class IntegerPiece(Piece, abc.ABC):
    """One input with one weight, as codes and integers."""

    def _weight(self, integers: Tensor, scale: Tensor) -> IntegerWeight:
        return IntegerWeight(integers, scale)

    @abc.abstractmethod
    def products(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[Tensor]:
        """Quantize x by scale and zero point of codes from 0 on, () float, and multiply its codes with each weight; without the bias."""

    def forward(self, x: Tensor) -> Tensor:
        """The part of the layer's output, without the bias."""
        scale, zero_point = self.source(x)
        return functools.reduce(torch.add, self.products(x, scale.reshape(()), (zero_point - self.lo).reshape(())))

    def _codes(self, x: Tensor) -> Tensor:
        """Codes from 0 on; rows of x may be at different steps."""
        scale, zero_point = self.source(x)
        return (torch.round(x / scale) + (zero_point - self.lo)).clamp(0, self.levels - 1)

    def code_differences(self, x: Tensor) -> Tensor:
        """See IntegerLayer."""
        (quantizer,) = self.simulated
        return (self._codes(x) - (quantizer.codes(x) - self.lo)).abs()


class IntegerWeight(nn.Module):
    """Integers within -128..127 as int8, and their scale (O,) float32."""

    integers: Tensor
    scale: Tensor

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.register_buffer("integers", integers.to(torch.int8))
        self.register_buffer("scale", scale.expand(len(integers), *(1,) * (integers.ndim - 1)).flatten().clone())
