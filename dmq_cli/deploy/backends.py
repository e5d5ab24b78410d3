"""The backends that run a network in integers, by the name that `backend` and `format` have."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dmq_cli.deploy import onednn, onnx, onnx_product, openvino, pytorch
from dmq_cli.deploy.denoiser import DeployedDenoiser
from dmq_cli.deploy.index import FILE
from dmq_cli.deploy.lower import Lowered, Piece, lower
from dmq_cli.deploy.processor import instruction_set, weight_limit
from dmq_cli.errors import ArtifactError
from dmq_cli.models import Prediction
from dmq_cli.store import read_json
from dmq_cli.wrap import Attached


@dataclass(frozen=True)
class Backend:
    """One of them.

    title: for people; needs: what is installed besides dmq-cli, in pip's words; runtime: raises ConfigError where that is missing; piece: the
    form of integer layers; write: the graph into a folder, None for a backend that runs the packed integers; denoiser: of such a folder;
    product_counts: products with weights as it runs them, in integers and all.
    """

    title: str
    needs: str
    runtime: Callable[[], object]
    piece: type[Piece]
    write: Callable[[Path, Lowered], None] | None
    denoiser: Callable[[Path, Prediction, int | None], DeployedDenoiser]
    product_counts: Callable[[Path], tuple[int, int]]


BACKENDS: Mapping[str, Backend] = {
    "openvino": Backend(
        "An OpenVINO graph", "dmq-cli[openvino]", openvino.runtime, Piece, openvino.write_openvino, openvino.OpenVinoDenoiser,
        lambda folder: openvino.product_counts(openvino.compiled(folder / openvino.FILE)),
    ),
    "onnx": Backend(
        "An ONNX graph for onnxruntime", "dmq-cli[onnx]", onnx.runtime, onnx_product.OnnxPiece, onnx.write_onnx, onnx.OnnxDenoiser,
        onnx.product_counts,
    ),
    "pytorch": Backend(
        "A network for PyTorch's int8 kernels", "dmq-cli", pytorch.runtime, onednn.OnednnPiece, None, pytorch.denoiser,
        pytorch.product_counts,
    ),
}  # fmt: skip


def graph_backend(form: str) -> Backend | None:
    """The backend whose exports in this format are graphs; None for a format of packed integers."""
    backend = BACKENDS.get(form)
    return None if backend is None or backend.write is None else backend


def deployed(backend: Backend, attached: Attached, prediction: Prediction, threads: int | None) -> DeployedDenoiser:
    """Deploy a network that is in memory."""
    backend.runtime()
    lowered = lower(attached, weight_limit(), backend.piece)
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
