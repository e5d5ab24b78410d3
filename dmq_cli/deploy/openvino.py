"""OpenVINO: the lowered network as an IR with integer convolutions and matrix products, and the IR as a Denoiser.

Precision is pinned to float32 around the integers: OpenVINO's own default may be bfloat16.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmq_cli.deploy.constants import integer_constant, widen
from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.lower import Lowered
from dmq_cli.deploy.names import PREFIX, naming
from dmq_cli.deploy.traced import input_names, traced, traced_float
from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.models import Adapter
from dmq_cli.models.prediction import Prediction

FILE = "openvino/network.xml"
_PRECISION = "f32"
_SETTINGS = {"PERFORMANCE_HINT": "LATENCY"}


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
    """Write network.xml and network.bin into FOLDER/openvino."""
    with naming(lowered) as tensor_names:
        program = traced(lowered)
    _write(folder, program, lowered.attached.adapter, tensor_names)


def write_float(folder: Path, adapter: Adapter) -> None:
    """Write a network without quantizers, likewise."""
    _write(folder, traced_float(adapter), adapter)


def _write(folder: Path, program: Any, adapter: Adapter, tensor_names: Sequence[str] = ()) -> None:
    openvino = runtime()
    of_inputs: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts about each other
        model = openvino.convert_model(program, extension=_translations(tensor_names, of_inputs))
    names = input_names(adapter)
    for port, name in zip(model.inputs, names, strict=True):
        friendly = port.get_node().get_friendly_name()
        port.get_tensor().set_names({name, *(tensor for tensor, node in of_inputs.items() if node == friendly)})
    model.reshape({name: shape for name, shape in zip(names, _shapes(adapter), strict=True)})
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)


def _shapes(adapter: Adapter) -> list[list[int]]:
    """The shapes of the inputs, -1 for the number of rows."""
    cond = adapter.blank_cond(1) or {}
    return [[-1, *adapter.sample_shape()], [1], *([-1, *value.shape[1:]] for value in cond.values())]


def _translations(tensor_names: Sequence[str], of_inputs: dict[str, str]) -> list[Any]:
    """dmq::fake_quantize as OpenVINO's FakeQuantize, or as integers of constants, and dmq::named as a name of its input.

    of_inputs takes the names of tensors that are inputs of the graph, with the node: converting gives those other names.
    """
    from openvino import opset13
    from openvino.frontend.pytorch import ConversionExtension  # type: ignore[import-untyped]

    def quantize(node: Any) -> Any:
        x, low, high = (node.get_input(number) for number in range(3))
        levels = int(node.get_values_from_const_input(3))
        if x.get_node().get_type_name() == "Constant":
            numbers, least, greatest = (given.get_node().data for given in (x, low, high))
            return integer_constant(numbers, least, greatest, levels).outputs()
        return opset13.fake_quantize(x, low, high, low, high, levels).outputs()

    def name(node: Any) -> Any:
        x = node.get_input(0)
        tensor = tensor_names[int(node.get_values_from_const_input(1))]
        if x.get_node().get_type_name() == "Parameter":
            of_inputs[tensor] = x.get_node().get_friendly_name()
        x.get_tensor().add_names({tensor})
        return [x]

    return [
        ConversionExtension("dmq.fake_quantize.default", quantize),
        ConversionExtension("dmq.named.default", name),
    ]


def read_model(file: Path) -> Any:
    """Read an IR, with weights of 8 bits. Raises ArtifactCorruptError for a file that OpenVINO cannot read."""
    try:
        model = runtime().Core().read_model(file)
    except RuntimeError as error:
        raise ArtifactCorruptError(
            f"The network in {file} cannot be read by OpenVINO ({' '.join(str(error).split())[:200]}); export it again."
        ) from error
    widen(model)
    return model


def compile_model(model: Any, threads: int | None = None, precision: str = _PRECISION) -> Any:
    """Compile a graph for this processor. precision: of what is not in integers, f32 or bf16."""
    pinned = {**_SETTINGS, "INFERENCE_PRECISION_HINT": precision}
    settings = {**pinned, **({} if threads is None else {"INFERENCE_NUM_THREADS": threads})}
    return runtime().Core().compile_model(model, "CPU", settings)


@functools.lru_cache(maxsize=4)
def compiled(file: Path, threads: int | None = None, rows: int | None = None, precision: str = _PRECISION) -> Any:
    """Compile an IR for so many rows, which runs faster than for any number of them (None). precision: see compile_model.

    Raises ArtifactCorruptError.
    """
    return compile_model(read_model(file) if rows is None else of_rows(file, rows), threads, precision)


def of_rows(file: Path, rows: int) -> Any:
    """Read an IR and give it static shapes, for so many rows. Raises ArtifactCorruptError."""
    model = read_model(file)
    model.reshape({port: [rows, *list(port.partial_shape)[1:]] for port in model.inputs if _has_rows(port)})
    return model


def _has_rows(port: Any) -> bool:
    return bool(port.partial_shape[0].is_dynamic)


def _row_shape(port: Any) -> tuple[int, ...]:
    return tuple(dimension.get_length() for dimension in list(port.partial_shape)[1:])


def _input_name(port: Any) -> str:
    (name,) = (name for name in port.get_names() if not name.startswith(PREFIX))
    return str(name)


class OpenVinoDenoiser(DeployedDenoiser):
    """The graph as a Denoiser."""

    def __init__(
        self, folder: Path, prediction: Prediction, threads: int | None = None, precision: str = _PRECISION
    ) -> None:
        """folder: of the export; prediction: what the network predicts; precision: see compile_model."""
        super().__init__(prediction)
        self.file, self.threads, self.precision = folder / FILE, threads, precision
        inputs = read_model(self.file).inputs
        self._shapes = {_input_name(port): _row_shape(port) for port in inputs}
        self._types = {
            _input_name(port): torch.float32 if port.element_type.is_real() else torch.int64 for port in inputs
        }

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """See DeployedDenoiser."""
        return self._shapes["sample"]

    def blank_cond(self, num: int) -> Mapping[str, Tensor] | None:
        """See DeployedDenoiser."""
        shapes = {name: shape for name, shape in self._shapes.items() if name not in ("sample", "timestep")}
        return {name: torch.zeros(num, *shape, dtype=self._types[name]) for name, shape in shapes.items()} or None

    def run(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """See DeployedDenoiser."""
        self._check(inputs)
        arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in inputs.items()}
        network = compiled(self.file, self.threads, len(inputs["sample"]), self.precision)
        return torch.from_numpy(network(arrays)[0].copy())

    def _check(self, inputs: Mapping[str, Tensor]) -> None:
        """The runtime gives no rows, and no error, for some shapes that it was not compiled for."""
        for name, shape in self._shapes.items():
            if name not in inputs or tuple(inputs[name].shape[1:]) != shape:
                given = tuple(inputs[name].shape) if name in inputs else "nothing"
                raise ConfigError(
                    f"The deployed network was called with {given} as {name}, but was exported for (rows, {', '.join(map(str, shape))}); export it"
                    " again with the model and condition that it is used with."
                )
