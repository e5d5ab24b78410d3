"""The backends that run a network in integers, by the name that `backend` and `format` have."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dmq_cli.deploy import onednn, onnx, onnx_product, openvino, pytorch, stored
from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.executed import executed
from dmq_cli.deploy.index import FILE
from dmq_cli.deploy.integer_layer import Piece
from dmq_cli.deploy.lower import Lowered, integer_layer, lower
from dmq_cli.deploy.processor import instruction_set, weight_limit
from dmq_cli.deploy.single_layers import SingleLayers
from dmq_cli.errors import ArtifactError
from dmq_cli.models import Prediction
from dmq_cli.store import read_json
from dmq_cli.wrap import Attached

RunLayer = Callable[[str, Tensor, Tensor], tuple[list[Tensor], Tensor]]
"""(layer, input, timestep (1,)) to the parts of the input behind their quantizers, and the output: as it is deployed."""


@dataclass(frozen=True)
class Ran:
    """What a backend executes. integer, every: products of integers, and all; share: of multiplications in integers, in 0..1."""

    integer: int
    every: int
    share: float


@dataclass(frozen=True)
class Backend:
    """One of them.

    title: for people; needs: what is installed besides dmq-cli, in pip's words; runtime: raises ConfigError where that is missing; form: of
    integer layers; write: the graph into a folder, None for a backend that runs the packed integers; denoiser: of such a folder; ran: what it
    executes of a folder, for so many rows and threads; layers: how it runs single layers of a folder and its network in memory; integers:
    of the weights in a folder.
    """

    title: str
    needs: str
    runtime: Callable[[], object]
    form: type[Piece]
    write: Callable[[Path, Lowered], None] | None
    denoiser: Callable[[Path, Prediction, int | None], DeployedDenoiser]
    ran: Callable[[Path, int, int | None], Ran]
    layers: Callable[[Path, Lowered], RunLayer]
    integers: Callable[[Path], Iterator[Tensor]]


def _openvino_ran(folder: Path, rows: int, threads: int | None) -> Ran:
    file = folder / openvino.FILE
    runs = executed(openvino.of_rows(file, rows), openvino.compiled(file, threads, rows))
    return Ran(len(runs.integer), len(runs.every), runs.share)


def _openvino_layers(folder: Path, lowered: Lowered) -> RunLayer:
    return SingleLayers(folder, {name: len(integer_layer(lowered, name).pieces) for name in lowered.integer})


def _counted(counts: Callable[[Path], tuple[int, int]]) -> Callable[[Path, int, int | None], Ran]:
    """Products as the backend counts them, and the share of their multiplications as it was when the network was lowered."""

    def ran(folder: Path, rows: int, threads: int | None) -> Ran:
        return Ran(*counts(folder), read_json(folder / FILE)["about"]["integer_share"])

    return ran


def _in_memory(folder: Path, lowered: Lowered) -> RunLayer:
    """Layers as PyTorch runs this form of them: for PyTorch's own kernels what is deployed, for ONNX the meaning of its operators."""

    def run(name: str, x: Tensor, timestep: Tensor) -> tuple[list[Tensor], Tensor]:
        layer = integer_layer(lowered, name)
        return layer.quantized(x), layer(x)

    return run


BACKENDS: Mapping[str, Backend] = {
    "openvino": Backend(
        "An OpenVINO graph", "dmq-cli[openvino]", openvino.runtime, Piece, openvino.write_openvino, openvino.OpenVinoDenoiser,
        _openvino_ran, _openvino_layers, stored.in_openvino,
    ),
    "onnx": Backend(
        "An ONNX graph for onnxruntime", "dmq-cli[onnx]", onnx.runtime, onnx_product.OnnxPiece, onnx.write_onnx, onnx.OnnxDenoiser,
        _counted(onnx.product_counts), _in_memory, stored.in_onnx,
    ),
    "pytorch": Backend(
        "A network for PyTorch's int8 kernels", "dmq-cli", pytorch.runtime, onednn.OnednnPiece, None, pytorch.denoiser,
        _counted(pytorch.product_counts), _in_memory, stored.in_packed,
    ),
}  # fmt: skip


def graph_backend(form: str) -> Backend | None:
    """The backend whose exports in this format are graphs; None for a format of packed integers."""
    backend = BACKENDS.get(form)
    return None if backend is None or backend.write is None else backend


def deployed(backend: Backend, attached: Attached, prediction: Prediction, threads: int | None) -> DeployedDenoiser:
    """Deploy a network that is in memory."""
    backend.runtime()
    lowered = lower(attached, weight_limit(), backend.form)
    if backend.write is None:
        return pytorch.PytorchDenoiser(lowered, prediction)
    with tempfile.TemporaryDirectory() as scratch:
        backend.write(Path(scratch), lowered)
        return backend.denoiser(Path(scratch), prediction, threads)


def check_limit(folder: Path) -> None:
    """Raise ArtifactError for a graph whose integers this processor does not multiply exactly."""
    about = read_json(folder / FILE)["about"]
    if about["limit"] > weight_limit():
        raise ArtifactError(
            f"The network in {folder} was exported for processors with {about['instruction_set']}, but this one has {instruction_set()}, where"
            " its products overflow; export it again here."
        )
