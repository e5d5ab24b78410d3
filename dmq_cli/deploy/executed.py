"""What OpenVINO executes: the products of a network, and which of them its runtime multiplies in integers."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_WRITTEN = ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul")
# What one-channel convolutions of integer_layer.py multiply, and no layer does.
_ADDED_FROM = ("ReduceSum", "Broadcast")
_EXECUTED = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")


@dataclass(frozen=True)
class Product:
    """One convolution or matrix product. macs: its multiply-accumulates; integer: whether it is executed with 8-bit integers."""

    name: str
    kind: str
    macs: int
    integer: bool = False


@dataclass(frozen=True)
class Executed:
    """integer: the products that a runtime executes with 8-bit integers; every: all of the network that are written in the graph; added:
    those of one channel, in floating point, that make up for zero points and for weights that were moved.

    A runtime may hide products in larger operators, so that only the graph knows all; hidden ones do not count as integers.
    """

    integer: list[Product]
    every: list[Product]
    added: list[Product]

    @property
    def share(self) -> float:
        """The part of all multiply-accumulates that is executed in integers, in 0..1."""
        every = sum(product.macs for product in (*self.every, *self.added))
        return sum(product.macs for product in self.integer) / every


def executed(graph: Any, network: Any) -> Executed:
    """Look at the products of a graph of static shapes and of the network that was compiled from it."""
    nodes = [node for node in graph.get_ops() if node.get_type_name() in _WRITTEN]
    every = [_written(node) for node in nodes if not _is_added(node)]
    added = [_written(node) for node in nodes if _is_added(node)]
    return Executed([product for product in _executed(network) if product.integer], every, added)


def _written(node: Any) -> Product:
    kind = node.get_type_name()
    return Product(node.get_friendly_name(), kind, _macs(node, kind))


def _is_added(node: Any) -> bool:
    if node.get_type_name() != "Convolution":
        return False
    return node.input_value(0).get_node().get_type_name() in _ADDED_FROM and node.input_value(1).get_shape()[1] == 1


def _executed(network: Any) -> Iterator[Product]:
    for node in network.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if "layerType" in info and (kind := info["layerType"].astype(str)) in _EXECUTED:
            kernel = info["primitiveType"].astype(str)  # ends with the precision: _I8 of unsigned inputs, _i8 of signed
            types = [node.input_value(port).get_element_type().to_string() for port in range(2)]
            integer = kernel.casefold().endswith("_i8") and all(name in ("u8", "i8") for name in types)
            yield Product(node.get_friendly_name(), kind, _macs(node, kind), integer)


def _macs(node: Any, kind: str) -> int:
    """MACs from the shapes: of an element of the output, or of the input where it is spread."""
    first, second = (_shape(node.input_value(port).get_shape()) for port in range(2))
    output = _shape(node.get_output_shape(0))
    if kind == "MatMul":
        return math.prod(output) * (math.prod(first) // math.prod(output[:-1]))
    if kind in ("Deconvolution", "ConvolutionBackpropData"):
        return math.prod(first) * math.prod(second) // first[1]
    channels = output[-1] if kind == "FullyConnected" else output[1]
    return math.prod(output) * math.prod(second) // channels


def _shape(shape: Any) -> list[int]:
    return [int(size) for size in shape]
