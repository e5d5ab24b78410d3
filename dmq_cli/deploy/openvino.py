"""OpenVINO: the lowered network as an IR with integer convolutions and matrix products, and the IR as a Denoiser.

Precision is pinned to float32 around the integers: OpenVINO's own default may be bfloat16. Where the processor multiplies u8 by s8 in
16 bits (AVX2 without VNNI), two products of 255 times more than 64 overflow, so weights are kept within 64 there (lower.py cuts the others).
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmq_cli.deploy.index import FILE as INDEX
from dmq_cli.deploy.lower import Lowered
from dmq_cli.deploy.traced import input_names, traced, traced_float
from dmq_cli.errors import ArtifactCorruptError, ArtifactError, ConfigError
from dmq_cli.models import Adapter
from dmq_cli.models.prediction import Prediction
from dmq_cli.store import read_json

FILE = "openvino/network.xml"
_PRECISION = "f32"
_SETTINGS = {"PERFORMANCE_HINT": "LATENCY"}
_EXACT, _SATURATING = 127, 64
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


def instruction_set() -> str:
    """The widest integer instructions of this processor: amx_int8, avx512_vnni, avx_vnni, avx512, avx2 or none of these."""
    flags = torch.backends.cpu.get_cpu_capability().lower()
    file = Path("/proc/cpuinfo")
    known = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else flags
    names = {
        "amx_int8": "amx_int8",
        "avx512_vnni": "avx512_vnni",
        "avx_vnni": "avx_vnni",
        "avx512f": "avx512",
        "avx2": "avx2",
    }
    words = set(known.split())
    return next((name for flag, name in names.items() if flag in words), flags)


def weight_limit() -> int:
    """The greatest integer of a weight that this processor multiplies exactly."""
    return _EXACT if "vnni" in instruction_set() or "amx" in instruction_set() else _SATURATING


def check_limit(folder: Path) -> None:
    """Raise ArtifactError for an export whose integers this processor does not multiply exactly."""
    about = read_json(folder / INDEX)["about"]
    if about["limit"] > weight_limit():
        raise ArtifactError(
            f"The network in {folder} was exported for processors with {about['instruction_set']}, but this one has {instruction_set()}, where"
            " its products overflow; export it again here."
        )


def write_openvino(folder: Path, lowered: Lowered) -> None:
    """Write network.xml and network.bin into FOLDER/openvino. Weights are float32 numbers that are integers times their scale."""
    _write(folder, traced(lowered), lowered.attached.adapter)


def write_float(folder: Path, adapter: Adapter) -> None:
    """Write a network without quantizers, likewise."""
    _write(folder, traced_float(adapter), adapter)


def _write(folder: Path, program: Any, adapter: Adapter) -> None:
    openvino = runtime()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts about each other
        model = openvino.convert_model(program, extension=[_translation(openvino)])
    names = input_names(adapter)
    for port, name in zip(model.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    model.reshape({name: shape for name, shape in zip(names, _shapes(adapter), strict=True)})
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, folder / FILE, compress_to_fp16=False)


def _shapes(adapter: Adapter) -> list[list[int]]:
    """The shapes of the inputs, -1 for the number of rows."""
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
def compiled(file: Path, threads: int | None = None, precision: str = _PRECISION) -> Any:
    """Compile an IR for this processor. precision: of what is not in integers, f32 or bf16. Raises ArtifactCorruptError for a file that OpenVINO cannot read."""
    openvino = runtime()
    pinned = {**_SETTINGS, "INFERENCE_PRECISION_HINT": precision}
    settings = {**pinned, **({} if threads is None else {"INFERENCE_NUM_THREADS": threads})}
    try:
        return openvino.Core().compile_model(file, "CPU", settings)
    except RuntimeError as error:
        raise ArtifactCorruptError(
            f"The network in {file} cannot be compiled by OpenVINO ({' '.join(str(error).split())[:200]}); export it again."
        ) from error


class OpenVinoDenoiser:
    """The deployed network as a Denoiser."""

    def __init__(
        self, folder: Path, prediction: Prediction, threads: int | None = None, precision: str = _PRECISION
    ) -> None:
        """folder: of the export; prediction: what the network predicts; precision: see compiled."""
        self.prediction = prediction
        self.network = compiled(folder / FILE, threads, precision)
        self._request = self.network.create_infer_request()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """The shape of one sample, (C, H, W)."""
        return tuple(dimension.get_length() for dimension in list(self.network.input("sample").partial_shape)[1:])

    def blank_cond(self, num: int) -> dict[str, Tensor] | None:
        """A condition of zeros for num samples; None where the network reads none."""
        ports = [port for port in self.network.inputs if port.any_name not in ("sample", "timestep")]
        shapes = {port.any_name: [size.get_length() for size in list(port.partial_shape)[1:]] for port in ports}
        types = {port.any_name: torch.float32 if port.element_type.is_real() else torch.int64 for port in ports}
        return {name: torch.zeros(num, *shape, dtype=types[name]) for name, shape in shapes.items()} or None

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        times = timestep.reshape(-1)
        if len(times) > 1 and bool((times != times[0]).any()):
            raise ConfigError(
                "The deployed network runs at one timestep at a time; give all samples of a call the same."
            )
        inputs = {"sample": sample.float(), "timestep": times[:1]}
        inputs |= dict(cond) if isinstance(cond, Mapping) else {}
        arrays = {name: np.ascontiguousarray(value.detach().cpu().numpy()) for name, value in inputs.items()}
        output = torch.from_numpy(self._request.infer(arrays)[self.network.output(0)].copy()).to(sample)
        return self.prediction.noise(output, sample, timestep)


def product_counts(network: Any) -> tuple[int, int]:
    """Count the convolutions and matrix products with weights of a compiled network as it runs: in integers, and all."""
    kinds = []
    for node in network.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and info["layerType"].astype(str) in _PRODUCTS:
            kinds.append(info["primitiveType"].astype(str).endswith("I8"))
    return sum(kinds), len(kinds)
