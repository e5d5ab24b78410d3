"""oneDNN's int8 kernels in place of convolutions and linear layers.

These are the kernels that PyTorch's own int8 quantization on x86 ends in (torchao's PT2E), called directly: they take scale and zero point of
the input with each call, so scales that change with the step need nothing more.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dmq_cli.deploy.integers import IntegerPiece, IntegerWeight

_PLAIN: tuple[Any, ...] = (1.0, 0, torch.float32, "none", [], "")
"""The output's scale, zero point and type, and nothing behind the product."""


class OnednnPiece(IntegerPiece):
    """One input with one weight in oneDNN's kernels."""

    def _weight(self, integers: Tensor, scale: Tensor, offset: Tensor) -> IntegerWeight:
        (layer,) = self.layer
        shape: Any = None if layer is None else (layer.stride, layer.padding, layer.dilation, layer.groups)
        return PackedWeight(integers, scale.float(), offset.float(), shape)

    @property
    def products(self) -> int:
        """See Piece."""
        return sum(weight.count for weight in self.weights)  # type: ignore[misc]

    def multiply(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[Tensor]:
        """See IntegerPiece."""
        codes = (x / scale).round_().add_(zero_point).clamp_(0, self.levels - 1).to(torch.uint8)
        for weight in self.weights:
            yield weight(codes, float(scale), int(zero_point))


class PackedWeight(IntegerWeight):
    """Integers in the layout of the kernels, and the product with them. shape: stride, padding, dilation and groups; None: linear.

    The kernels know no offsets: what they add is that times the product with ones, a channel more for all.
    """

    def __init__(self, integers: Tensor, scale: Tensor, offset: Tensor, shape: tuple[Any, ...] | None) -> None:
        super().__init__(integers, scale, offset)
        self.shape = shape
        self.kernel = _Kernel(self.integers, self.scale, shape)
        ones = torch.ones_like(self.integers[:1])
        self.ones = _Kernel(ones, torch.ones(1), shape) if bool(offset.any()) else None
        moved = self.offset * self.scale
        self.moved = moved if shape is None else moved.view(-1, 1, 1)

    @property
    def count(self) -> int:
        """Calls of the kernels."""
        return 1 + (self.ones is not None)

    def forward(self, codes: Tensor, scale: float, zero_point: int) -> Tensor:
        """Codes (uint8) less their zero point, times the integers, times both scales; float32."""
        if self.shape is not None:
            codes = codes.contiguous(memory_format=torch.channels_last)
        output = self.kernel(codes, scale, zero_point)
        return output if self.ones is None else output.addcmul_(self.ones(codes, scale, zero_point), self.moved)


class _Kernel:
    """A call of oneDNN with weights in its layout."""

    def __init__(self, integers: Tensor, scale: Tensor, shape: tuple[Any, ...] | None) -> None:
        kernels, self.scale = torch.ops.onednn, scale
        self.zero_points = torch.zeros(len(scale), dtype=torch.int32)
        if shape is None:
            self.call, self.shape = kernels.qlinear_pointwise, ()
            self.weight = kernels.qlinear_prepack(integers, None)
        else:
            self.call, self.shape = kernels.qconv_pointwise, shape
            self.weight = kernels.qconv_prepack(integers, scale, 1.0, 0, *shape, None)

    def __call__(self, codes: Tensor, scale: float, zero_point: int) -> Tensor:
        product: Tensor = self.call(
            codes, scale, zero_point, self.weight, self.scale, self.zero_points, None, *self.shape, *_PLAIN
        )
        return product
