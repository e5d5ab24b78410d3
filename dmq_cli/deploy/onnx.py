"""ONNX: the lowered network with pairs of QuantizeLinear and DequantizeLinear, and the file as a Denoiser in onnxruntime."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.lower import Lowered
from dmq_cli.deploy.onnx_product import translations
from dmq_cli.deploy.traced import input_names, traced
from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.models.prediction import Prediction

FILE = "onnx/network.onnx"
OPSET = 21
_ERRORS = 3  # of the log of onnxruntime
_INTEGER = ("MatMulIntegerToFloat", "MatMulInteger", "QGemm", "QLinearMatMul", "QLinearConv", "ConvInteger")
_FLOATING = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def runtime() -> Any:
    """The package onnxruntime. Raises ConfigError where it, or what writes its files, is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"ONNX was asked for, but the package {error.name} is not installed; run: pip install 'dmq-cli[onnx]'."
        ) from error
    return onnxruntime


def write_onnx(folder: Path, lowered: Lowered) -> None:
    """Write network.onnx into FOLDER/onnx: integers as int8 with a scale for each output channel."""
    runtime()
    names = input_names(lowered.attached.adapter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts about each other
        model: Any = torch.onnx.export(
            traced(lowered), opset_version=OPSET, dynamo=True, input_names=names, output_names=["prediction"], verbose=False,
            custom_translation_table=translations(), optimize=False,
        )  # fmt: skip
    for node in model.model.graph:
        node.metadata_props.clear()  # stack traces, with paths of this machine
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    model.save(folder / FILE)


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

    def blank_cond(self, num: int) -> Mapping[str, Tensor] | None:
        """See DeployedDenoiser."""
        _, _, *cond = self.session.get_inputs()
        types = {port.name: torch.int64 if "int64" in port.type else torch.float32 for port in cond}
        return {port.name: torch.zeros(num, *port.shape[1:], dtype=types[port.name]) for port in cond} or None

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
