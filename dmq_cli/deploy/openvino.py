"""OpenVINO: the lowered network as an IR with integer convolutions and matrix products, and the IR as a Denoiser.

Precision is pinned to float32 around the integers: OpenVINO's own default may be bfloat16.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.lower import Lowered
from dmq_cli.deploy.traced import input_names, traced
from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.models.prediction import Prediction

FILE = "openvino/network.xml"
_SETTINGS = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
_PRODUCTS = ("Convolution", "FullyConnected")


def runtime() -> Any:
    """The package openvino. Raises ConfigError where it is not installed."""
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError as error:
        raise ConfigError(
            "OpenVINO was asked for, but the package openvino is not installed; run: pip install 'dmq-cli[openvino]'."
        ) from error
    return openvino


def write_openvino(folder: Path, lowered: Lowered) -> None:
    """Write network.xml and network.bin into FOLDER/openvino. Weights are float32 numbers that are integers times their scale."""
    openvino = runtime()
    program = traced(lowered)
    model = openvino.convert_model(program, extension=[_translation(openvino)])
    names = input_names(lowered.attached)
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    model.reshape({name: shape for name, shape in zip(names, _shapes(lowered), strict=True)})
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)


def _shapes(lowered: Lowered) -> list[list[int]]:
    """The shapes of the inputs, -1 for the number of rows."""
    adapter = lowered.attached.adapter
    cond = adapter.blank_cond(1) or {}
    return [[-1, *adapter.sample_shape()], [1], *([-1, *value.shape[1:]] for value in cond.values())]


def _translation(openvino: Any) -> Any:
    """dmq::fake_quantize as OpenVINO's FakeQuantize."""
    from openvino import opset13
    from openvino.frontend.pytorch import ConversionExtension  # type: ignore[import-untyped]

    def translate(node: Any) -> Any:
        x, low, high = (node.get_input(number) for number in range(3))
        return opset13.fake_quantize(x, low, high, low, high, int(node.get_values_from_const_input(3))).outputs()

    return ConversionExtension("dmq.fake_quantize.default", translate)


@functools.lru_cache(maxsize=4)
def compiled(file: Path, threads: int | None = None) -> Any:
    """Compile an IR for this processor. Raises ArtifactCorruptError for a file that OpenVINO cannot read."""
    openvino = runtime()
    settings = {**_SETTINGS, **({} if threads is None else {"INFERENCE_NUM_THREADS": threads})}
    try:
        return openvino.Core().compile_model(file, "CPU", settings)
    except RuntimeError as error:
        raise ArtifactCorruptError(
            f"The network in {file} cannot be compiled by OpenVINO ({' '.join(str(error).split())[:200]}); export it again."
        ) from error


class OpenVinoDenoiser(DeployedDenoiser):
    """The graph as a Denoiser."""

    def __init__(self, folder: Path, prediction: Prediction, threads: int | None = None) -> None:
        """folder: of the export; prediction: what the network predicts."""
        super().__init__(prediction)
        self.network = compiled(folder / FILE, threads)
        self._request = self.network.create_infer_request()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See DeployedDenoiser."""
        return tuple(dimension.get_length() for dimension in list(self.network.input("sample").partial_shape)[1:])

    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See DeployedDenoiser."""
        arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in inputs.items()}
        return torch.from_numpy(self._request.infer(arrays)[self.network.output(0)].copy())


def product_counts(network: Any) -> tuple[int, int]:
    """Count the convolutions and matrix products with weights of a compiled network as it runs: in integers, and all."""
    kinds = []
    for node in network.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _PRODUCTS:
            kinds.append(info["primitiveType"].astype(str).endswith("I8"))
    return sum(kinds), len(kinds)
