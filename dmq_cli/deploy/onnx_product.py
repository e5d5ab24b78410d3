"""The product of codes and integers as an operator that torch.export traces, and what it is in ONNX.

onnxruntime fuses DequantizeLinear of both operands with the MatMul behind them to one product of integers with a float32 result. It has
nothing like it for convolutions whose result is not quantized again (its ConvInteger is slower than float32), so convolutions are written as
matrix products: codes of the inputs that each output sees are put side by side, as u8, and multiplied once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.deploy.integers import IntegerPiece, IntegerWeight
from dmq_cli.errors import ConfigError

_UINT8, _INT8 = 2, 3
_END = 2**31 - 1


@torch.library.custom_op("dmq::integer_product", mutates_args=())
def integer_product(
    x: Tensor, scale: Tensor, zero_point: Tensor, levels: int, weight: Tensor, weight_scale: Tensor, offset: Tensor,
    kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
) -> Tensor:  # fmt: skip
    """x in codes 0 .. levels - 1, times integers: of a convolution, or with kernel [] of a linear layer.

    scale, zero_point: (); weight: (height * width * C, O) or (C, O) int8, less its offset (O,); weight_scale (O,).
    """
    codes = (torch.round(x / scale) + zero_point).clamp(0, levels - 1) - zero_point
    integers = weight.to(x.dtype) + offset
    if not kernel:
        return (codes @ integers) * (scale * weight_scale)
    filters = integers.T.reshape(len(weight_scale), *kernel, -1).permute(0, 3, 1, 2)
    return nn.functional.conv2d(codes, filters, None, stride, padding, dilation) * (scale * weight_scale).view(-1, 1, 1)


@integer_product.register_fake
def _(
    x: Tensor, scale: Tensor, zero_point: Tensor, levels: int, weight: Tensor, weight_scale: Tensor, offset: Tensor,
    kernel: list[int], stride: list[int], padding: list[int], dilation: list[int],
) -> Tensor:  # fmt: skip
    if not kernel:
        return x.new_empty((*x.shape[:-1], len(weight_scale)))
    return x.new_empty((x.shape[0], len(weight_scale), *_sizes(list(x.shape[2:]), kernel, stride, padding, dilation)))


def _sizes(
    sizes: list[int], kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> list[int]:
    """Height and width of a convolution's output."""
    spans = zip(sizes, kernel, stride, padding, dilation, strict=True)
    return [(size + 2 * pad - gap * (taps - 1) - 1) // step + 1 for size, taps, step, pad, gap in spans]


class OnnxPiece(IntegerPiece):
    """One input with one weight as a matrix product."""

    def _weight(self, integers: Tensor, scale: Tensor, offset: Tensor) -> IntegerWeight:
        weight = super()._weight(integers, scale, offset)
        last = integers.permute(0, 2, 3, 1) if integers.ndim == 4 else integers
        weight.integers = last.flatten(1).T.contiguous().to(torch.int8)
        return weight

    def multiply(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[Tensor]:
        """See IntegerPiece."""
        (layer,) = self.layer
        shape = [[]] * 4 if layer is None else _geometry(layer)
        for weight in self.weights:
            yield integer_product(
                x, scale, zero_point, self.levels, weight.integers, weight.scale, weight.offset, *shape
            )


def _geometry(layer: nn.Conv2d) -> list[list[int]]:
    """Kernel, stride, padding and dilation. Raises ConfigError for a convolution in groups."""
    if layer.groups != 1 or isinstance(layer.padding, str):
        raise ConfigError(
            f"A convolution in {layer.groups} groups with padding {layer.padding} was to be exported to ONNX, where dmq writes those in one group"
            " with padding by numbers; use format=openvino."
        )
    return [list(sizes) for sizes in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)]


def translations() -> dict[Any, Any]:
    """dmq's operators as those of ONNX."""
    from onnxscript import opset21 as op

    def fake_quantize(x: Any, low: Any, high: Any, levels: int) -> Any:
        scale = op.Div(op.Sub(high, low), op.Constant(value_float=levels - 1.0))
        codes = op.Round(op.Div(op.Sub(op.Min(op.Max(x, low), high), low), scale))
        return op.Add(op.Mul(codes, scale), low)

    def product(
        x: Any, scale: Any, zero_point: Any, levels: int, weight: Any, weight_scale: Any, offset: Any, kernel: Any, stride: Any,
        padding: Any, dilation: Any,
    ) -> Any:  # fmt: skip
        zero = op.Cast(zero_point, to=_UINT8)
        codes = op.QuantizeLinear(x, scale, zero)
        if levels < 256:
            codes = op.Min(codes, op.Cast(op.Constant(value_int=levels - 1), to=_UINT8))
        first = op.Constant(value_ints=[0])
        columns = _columns(op, codes, zero, kernel, stride, padding, dilation) if kernel else op.Unsqueeze(codes, first)
        numbers = op.DequantizeLinear(weight, weight_scale, op.Cast(op.Neg(offset), to=_INT8), axis=1)
        result = op.MatMul(op.DequantizeLinear(columns, scale, zero), numbers)
        return op.Transpose(result, perm=[0, 3, 1, 2]) if kernel else op.Squeeze(result, first)

    return {torch.ops.dmq.fake_quantize.default: fake_quantize, torch.ops.dmq.integer_product.default: product}


def _columns(op: Any, codes: Any, zero: Any, kernel: Any, stride: Any, padding: Any, dilation: Any) -> Any:
    """What each output of a convolution sees of codes (B, C, H, W), side by side: (B, H', W', height * width * C)."""
    codes = op.Transpose(codes, perm=[0, 2, 3, 1])
    if any(padding):
        codes = op.Pad(codes, op.Constant(value_ints=[0, *padding, 0] * 2), zero)
    taps = []
    for place in itertools.product(*map(range, kernel)):
        starts = [gap * number for gap, number in zip(dilation, place, strict=True)]
        ends = [start - gap * (size - 1) for start, gap, size in zip(starts, dilation, kernel, strict=True)]
        borders = ([0, *starts], [_END, *(end or _END for end in ends)], [0, 1, 2], [1, *stride])
        taps.append(op.Slice(codes, *(op.Constant(value_ints=border) for border in borders)))
    return op.Concat(*taps, axis=-1)
