"""ONNX: the lowered network with pairs of QuantizeLinear and DequantizeLinear, and the file as a Denoiser in onnxruntime.

onnxruntime fuses DequantizeLinear of both operands with the MatMul behind them to one product of integers with a float32 result. It has
nothing like it for convolutions whose result is not quantized again (its ConvInteger is slower than float32), so convolutions are written as
matrix products: codes of the inputs that each output sees are put side by side, as u8, and multiplied once.
"""

from __future__ import annotations

import itertools
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.integers import IntegerPiece, IntegerWeight
from dmq_cli.deploy.lower import Lowered
from dmq_cli.deploy.traced import input_names, traced
from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.models.prediction import Prediction

FILE = "onnx/network.onnx"
OPSET = 21
_UINT8 = 2
_END = 2**31 - 1
_ERRORS = 3  # of the log of onnxruntime
_INTEGER = ("MatMulIntegerToFloat", "MatMulInteger", "QGemm", "QLinearMatMul", "QLinearConv", "ConvInteger")
_FLOATING = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def runtime() -> Any:
    """The package onnxruntime. Raises ConfigError where it, or what writes its files, is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # type: ignore[import-untyped]
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"ONNX was asked for, but the package {error.name} is not installed; run: pip install 'dmq-cli[onnx]'."
        ) from error
    return onnxruntime


@torch.library.custom_op("dmq::integer_product", mutates_args=())
def integer_product(
    x: Tensor, scale: Tensor, zero_point: Tensor, levels: int, weight: Tensor, weight_scale: Tensor, kernel: list[int], stride: list[int],
    padding: list[int], dilation: list[int],
) -> Tensor:  # fmt: skip
    """x in codes 0 .. levels - 1, times integers: of a convolution, or with kernel [] of a linear layer.

    scale, zero_point: (); weight: (height * width * C, O) or (C, O) int8, weight_scale (O,).
    """
    codes = (torch.round(x / scale) + zero_point).clamp(0, levels - 1) - zero_point
    integers = weight.to(x.dtype)
    if not kernel:
        return (codes @ integers) * (scale * weight_scale)
    filters = integers.T.reshape(len(weight_scale), *kernel, -1).permute(0, 3, 1, 2)
    return nn.functional.conv2d(codes, filters, None, stride, padding, dilation) * (scale * weight_scale).view(-1, 1, 1)


@integer_product.register_fake
def _(
    x: Tensor, scale: Tensor, zero_point: Tensor, levels: int, weight: Tensor, weight_scale: Tensor, kernel: list[int], stride: list[int],
    padding: list[int], dilation: list[int],
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

    def _weight(self, integers: Tensor, scale: Tensor) -> IntegerWeight:
        weight = super()._weight(integers, scale)
        last = integers.permute(0, 2, 3, 1) if integers.ndim == 4 else integers
        weight.integers = last.flatten(1).T.contiguous().to(torch.int8)
        return weight

    def products(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[Tensor]:
        """See IntegerPiece."""
        (layer,) = self.layer
        shape = [[]] * 4 if layer is None else _geometry(layer)
        for weight in self.weights:
            yield integer_product(x, scale, zero_point, self.levels, weight.integers, weight.scale, *shape)


def _geometry(layer: nn.Conv2d) -> list[list[int]]:
    """Kernel, stride, padding and dilation. Raises ConfigError for a convolution in groups."""
    if layer.groups != 1 or isinstance(layer.padding, str):
        raise ConfigError(
            f"A convolution in {layer.groups} groups with padding {layer.padding} was to be exported to ONNX, where dmq writes those in one group"
            " with padding by numbers; use format=openvino."
        )
    return [list(sizes) for sizes in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)]


def write_onnx(folder: Path, lowered: Lowered) -> None:
    """Write network.onnx into FOLDER/onnx: integers as int8 with a scale for each output channel."""
    runtime()
    names = input_names(lowered.attached)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts about each other
        model: Any = torch.onnx.export(
            traced(lowered), opset_version=OPSET, dynamo=True, input_names=names, output_names=["prediction"], verbose=False,
            custom_translation_table=_translations(), optimize=False,
        )  # fmt: skip
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    model.save(folder / FILE)


def _translations() -> dict[Any, Any]:
    """dmq's operators as those of ONNX."""
    from onnxscript import opset21 as op

    def fake_quantize(x: Any, low: Any, high: Any, levels: int) -> Any:
        scale = op.Div(op.Sub(high, low), op.Constant(value_float=levels - 1.0))
        codes = op.Round(op.Div(op.Sub(op.Min(op.Max(x, low), high), low), scale))
        return op.Add(op.Mul(codes, scale), low)

    def product(
        x: Any, scale: Any, zero_point: Any, levels: int, weight: Any, weight_scale: Any, kernel: Any, stride: Any, padding: Any,
        dilation: Any,
    ) -> Any:  # fmt: skip
        zero = op.Cast(zero_point, to=_UINT8)
        codes = op.QuantizeLinear(x, scale, zero)
        if levels < 256:
            codes = op.Min(codes, op.Cast(op.Constant(value_int=levels - 1), to=_UINT8))
        first = op.Constant(value_ints=[0])
        columns = _columns(op, codes, zero, kernel, stride, padding, dilation) if kernel else op.Unsqueeze(codes, first)
        numbers = op.DequantizeLinear(weight, weight_scale, axis=1)
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


def session(file: Path, threads: int | None = None, optimized: Path | None = None) -> Any:
    """Open a network in onnxruntime on the CPU. optimized: a file to which the graph is written as it runs.

    Raises ArtifactCorruptError for a file that onnxruntime cannot read.
    """
    onnxruntime = runtime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = _ERRORS, threads or 0
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    try:
        return onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own have no common class
        raise ArtifactCorruptError(
            f"The network in {file} cannot be opened by onnxruntime ({' '.join(str(error).split())[:200]}); export it again."
        ) from error


class OnnxDenoiser(DeployedDenoiser):
    """The graph as a Denoiser."""

    def __init__(self, folder: Path, prediction: Prediction, threads: int | None = None) -> None:
        """folder: of the export; prediction: what the network predicts."""
        super().__init__(prediction)
        self.session = session(folder / FILE, threads)

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See DeployedDenoiser."""
        return tuple(self.session.get_inputs()[0].shape[1:])

    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See DeployedDenoiser."""
        arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in inputs.items()}
        return torch.from_numpy(self.session.run(None, arrays)[0])


def product_counts(folder: Path) -> tuple[int, int]:
    """Count the products with weights of an export as onnxruntime runs them: in integers, and all."""
    import onnx

    with tempfile.TemporaryDirectory() as scratch:
        optimized = Path(scratch) / "network.onnx"
        session(folder / FILE, 1, optimized)
        graph = onnx.load(optimized).graph
    weights = {tensor.name for tensor in graph.initializer}
    kinds = [node.op_type for node in graph.node if len(node.input) > 1 and not weights.isdisjoint(node.input[1:2])]
    integer = sum(kind in _INTEGER for kind in kinds)
    return integer, integer + sum(kind in _FLOATING for kind in kinds)
