"""The integers of weights in a file are those of the network, and one that differs is found."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.deploy import onednn, onnx, onnx_product, openvino, stored
from dmq_cli.deploy.folder import write_network
from dmq_cli.deploy.integer_layer import Piece
from dmq_cli.deploy.lower import Lowered, integer_layer, lower
from dmq_cli.deploy.processor import weight_limit
from dmq_cli.quant import PerStepScale
from dmq_cli.wrap import Attached, Rule
from tests.tiny import scheme, wrapped

RULES = (Rule("*.weight", bits=4), Rule("edge.*.weight", bits=8), Rule("*.input", scale=PerStepScale()))
BACKENDS: dict[str, tuple[type[Piece], Callable[[Path], Iterator[Tensor]], str]] = {
    "openvino": (Piece, stored.in_openvino, "openvino"),
    "onnx": (onnx_product.OnnxPiece, stored.in_onnx, "onnxruntime"),
}


def exported(name: str, attached: Attached, folder: Path) -> Lowered:
    lowered = lower(attached, weight_limit(), BACKENDS[name][0])
    {"openvino": openvino.write_openvino, "onnx": onnx.write_onnx}[name](folder, lowered)
    return lowered


def moved(lowered: Lowered) -> Lowered:
    """The same with one integer of one weight moved by one."""
    layer = integer_layer(lowered, lowered.integer[3])
    weight: Tensor = layer.pieces[0].weights[0].integers  # type: ignore[union-attr, index]
    weight.view(-1)[5] += -1 if int(weight.view(-1)[5]) > 0 else 1
    return lowered


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("name", BACKENDS)
def test_integers_of_a_graph_are_those_of_the_network(name: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(BACKENDS[name][2]) is None:
        pytest.skip(f"{name} is an extra")
    attached = wrapped(scheme(*RULES), torch.float32)
    lowered = exported(name, attached, tmp_path)
    elements = sum(layer.weight.numel() for layer in attached.layers().values())
    num_equal, num_all = stored.equal(stored.integers_of(lowered), BACKENDS[name][1](tmp_path))
    assert num_equal == num_all >= elements > 1000
    num_equal, num_all = stored.equal(stored.integers_of(moved(lowered)), BACKENDS[name][1](tmp_path))
    assert 0 < num_all - num_equal < num_all / 2, "the whole weight counts as another"


def test_integers_of_a_packed_folder_are_those_of_the_network(tmp_path: Path) -> None:
    attached = wrapped(scheme(*RULES), torch.float32)
    write_network(tmp_path / "unet", attached, {})
    lowered = lower(attached, weight_limit(), onednn.OnednnPiece)
    num_equal, num_all = stored.equal(stored.integers_of(lowered), stored.in_packed(tmp_path))
    assert num_equal == num_all > 1000
    num_equal, num_all = stored.equal(stored.integers_of(moved(lowered)), stored.in_packed(tmp_path))
    assert 0 < num_all - num_equal < num_all


def test_every_weight_is_found_once() -> None:
    weight, other = torch.tensor([[1, 2]], dtype=torch.int8), torch.tensor([[1], [2]], dtype=torch.int8)
    assert stored.equal([weight, weight], [weight]) == (2, 4)
    assert stored.equal([weight], [other]) == (0, 2)
    assert stored.equal([weight, other], [other, weight, weight]) == (4, 4)
