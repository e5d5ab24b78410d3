"""The integers of weights as they lie in an exported folder, to be compared with those of the network that was exported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from dmq_cli.deploy import onnx, openvino
from dmq_cli.deploy.folder import read_network
from dmq_cli.deploy.lower import Lowered, integer_layer, lower
from dmq_cli.deploy.onednn import OnednnPiece
from dmq_cli.deploy.processor import weight_limit
from dmq_cli.models.folder import tokens_of
from dmq_cli.models.parts import network_folder


def integers_of(lowered: Lowered) -> Iterator[Tensor]:
    """The integers of every weight of a lowered network, int8."""
    for name in lowered.integer:
        for piece in integer_layer(lowered, name).pieces:
            yield from (weight.integers for weight in piece.weights)  # type: ignore[union-attr]


def in_openvino(folder: Path) -> Iterator[Tensor]:
    """Those of an IR, also of constants of 4 bits."""
    for node in openvino.read_model(folder / openvino.FILE).get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "i8":
            yield torch.from_numpy(node.data.copy())


def in_onnx(folder: Path) -> Iterator[Tensor]:
    """Those of an ONNX file."""
    from onnx import TensorProto, load, numpy_helper

    for tensor in load(folder / onnx.FILE).graph.initializer:
        if tensor.data_type == TensorProto.INT8:
            yield torch.from_numpy(numpy_helper.to_array(tensor).copy())


def in_packed(folder: Path) -> Iterator[Tensor]:
    """Those of a packed folder, as PyTorch's kernels get them."""
    network = read_network(network_folder(folder), tokens_of(folder))
    yield from integers_of(lower(network, weight_limit(), OnednnPiece))


def equal(expected: Iterable[Tensor], stored: Iterable[Tensor]) -> tuple[int, int]:
    """Count the integers of expected weights that are stored, each whole weight once, and all. Names are not kept everywhere."""
    remaining = Counter(map(_identity, stored))
    num_equal = num_all = 0
    for weight in expected:
        num_all += weight.numel()
        identity = _identity(weight)
        if remaining[identity]:
            remaining[identity] -= 1
            num_equal += weight.numel()
    return num_equal, num_all


def _identity(weight: Tensor) -> tuple[tuple[int, ...], bytes]:
    return tuple(weight.shape), weight.to(torch.int8).contiguous().numpy().tobytes()
