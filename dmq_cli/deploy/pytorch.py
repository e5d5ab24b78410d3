"""PyTorch: the network as it is, with oneDNN's int8 kernels in place of its convolutions and linear layers.

These are the kernels that PyTorch's own int8 quantization on x86 ends in (torchao's PT2E), called directly: they take scale and zero point of
the input with each call, so scales that change with the step need nothing more. The exported folder is the packed one; integers are cut
for the processor (lower.py) and laid out for its kernels when it is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.folder import read_network
from dmq_cli.deploy.integers import IntegerPiece, IntegerWeight
from dmq_cli.deploy.lower import Lowered, lower
from dmq_cli.deploy.processor import weight_limit
from dmq_cli.errors import ConfigError
from dmq_cli.models import NOISE, Prediction
from dmq_cli.models.folder import tokens_of
from dmq_cli.models.parts import network_folder

_INTEGER = ("onednn::qconv_pointwise", "onednn::qlinear_pointwise")
_FLOATING = ("aten::conv2d", "aten::linear")
_PLAIN = (
    1.0,
    0,
    torch.float32,
    "none",
    [],
    "",
)  # the output's scale, zero point and type, and nothing behind the product


def runtime() -> None:
    """Raise ConfigError for a PyTorch without oneDNN's kernels."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qconv_pointwise"):
        raise ConfigError(
            "PyTorch was asked for int8, but this build of it has no int8 kernels of oneDNN; install one for x86, or use backend=onnx."
        )


class OnednnPiece(IntegerPiece):
    """One input with one weight in oneDNN's kernels."""

    def _weight(self, integers: Tensor, scale: Tensor) -> IntegerWeight:
        (layer,) = self.layer
        shape: Any = None if layer is None else (layer.stride, layer.padding, layer.dilation, layer.groups)
        return PackedWeight(integers, scale.float(), shape)

    def products(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Iterator[Tensor]:
        """See IntegerPiece."""
        codes = (x / scale).round_().add_(zero_point).clamp_(0, self.levels - 1).to(torch.uint8)
        for weight in self.weights:
            yield weight(codes, float(scale), int(zero_point))


class PackedWeight(IntegerWeight):
    """Integers in the layout of the kernels, and the product with them. shape: stride, padding, dilation and groups; None: linear."""

    def __init__(self, integers: Tensor, scale: Tensor, shape: tuple[Any, ...] | None) -> None:
        super().__init__(integers, scale)
        self.register_buffer("zero_points", torch.zeros(len(self.scale), dtype=torch.int32))
        self.shape = shape
        kernels = torch.ops.onednn
        pack = kernels.qlinear_prepack if shape is None else kernels.qconv_prepack
        given = (None,) if shape is None else (self.scale, 1.0, 0, *shape, None)
        self.packed = (pack(self.integers, *given),)  # the tuple hides a tensor that cannot be copied

    def forward(self, codes: Tensor, scale: float, zero_point: int) -> Tensor:
        """Codes (uint8) less their zero point, times the integers, times both scales; float32."""
        (packed,) = self.packed
        operands = (scale, zero_point, packed, self.scale, self.zero_points, None)
        kernels = torch.ops.onednn
        if self.shape is None:
            output: Tensor = kernels.qlinear_pointwise(codes, *operands, *_PLAIN)
        else:
            codes = codes.contiguous(memory_format=torch.channels_last)
            output = kernels.qconv_pointwise(codes, *operands, *self.shape, *_PLAIN)
        return output


class PytorchDenoiser(DeployedDenoiser):
    """The network with those kernels as a Denoiser."""

    def __init__(self, lowered: Lowered, prediction: Prediction) -> None:
        """lowered: with OnednnPiece; prediction: what the network predicts."""
        super().__init__(prediction)
        self.attached = lowered.attached

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See DeployedDenoiser."""
        return self.attached.adapter.sample_shape()

    @torch.no_grad()
    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See DeployedDenoiser."""
        cond = {name: value for name, value in inputs.items() if name not in ("sample", "timestep")}
        with self.attached.at(inputs["timestep"]):
            return self.attached.adapter.predict(inputs["sample"], inputs["timestep"], cond or None)


def denoiser(folder: Path, prediction: Prediction, threads: int | None = None) -> PytorchDenoiser:
    """Load a packed folder. threads: of the whole process in PyTorch, so they are set elsewhere."""
    runtime()
    network = read_network(network_folder(folder), tokens_of(folder))
    return PytorchDenoiser(lower(network, weight_limit(), OnednnPiece), prediction)


def product_counts(folder: Path) -> tuple[int, int]:
    """Count the products with weights of one call: in integers, and all."""
    deployed = denoiser(folder, NOISE)
    adapter = deployed.attached.adapter
    cond = adapter.blank_cond(1)
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        deployed(torch.zeros(1, *deployed.sample_shape), deployed.attached.grid.timesteps[:1], cond)
    called = {event.key: event.count for event in profiler.key_averages()}
    integer = sum(called.get(name, 0) for name in _INTEGER)
    return integer, integer + sum(called.get(name, 0) for name in _FLOATING)
