"""Weights of an OpenVINO graph as integers: of 4 bits in the file where they fit, of 8 bits where convolutions are compiled.

OpenVINO has no convolution that reads 4-bit constants in integers, so reading a file widens them. What multiplies does not change.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_NIBBLE = 15


def integer_constant(numbers: NDArray[Any], low: NDArray[Any], high: NDArray[Any], levels: int) -> Any:
    """Numbers on `levels` values from low to high, which are -levels / 2 and levels / 2 - 1 times their scale: integers times the scale.

    Returns the node of OpenVINO's graph. Integers that span at most 15 in each row take 4 bits.
    """
    from openvino import opset13  # type: ignore[import-untyped]

    scale = (high - low) / (levels - 1)
    integers = np.round(numbers / scale)
    rows = tuple(range(1, integers.ndim))
    least = integers.min(rows, keepdims=True)
    if (integers.max(rows, keepdims=True) - least).max() > _NIBBLE:
        wide = opset13.convert(opset13.constant(integers.astype(np.int8)), "f32")
    else:
        narrow = opset13.convert(_nibbles(integers - least), "f32")
        wide = opset13.subtract(narrow, opset13.constant((-least).astype(np.float32)))
    return opset13.multiply(wide, opset13.constant(scale.astype(np.float32)))


def _nibbles(codes: NDArray[Any]) -> Any:
    from openvino import Shape, Tensor, Type, op
    from openvino.helpers import pack_data  # type: ignore[import-untyped]

    packed = Tensor(Type.u4, Shape(codes.shape))  # a tensor around an array would not keep that alive
    packed.data[:] = pack_data(codes.astype(np.uint8), Type.u4)
    return op.Constant(packed)


def widen(graph: Any) -> None:
    """Make 8-bit constants of the 4-bit ones of a graph, in place."""
    from openvino import Type, opset13
    from openvino.helpers import unpack_data

    for node in graph.get_ops():
        if node.get_type_name() == "Constant" and node.get_element_type() == Type.u4:
            codes = unpack_data(node.data, Type.u4, node.get_output_shape(0))
            subtract = _reader(_reader(node))
            integers = codes.astype(np.float32) - subtract.input_value(1).get_node().data
            wide = opset13.convert(opset13.constant(integers.astype(np.int8)), "f32")
            for target in list(subtract.output(0).get_target_inputs()):
                target.replace_source_output(wide.output(0))


def _reader(node: Any) -> Any:
    """The only node that reads what this one gives."""
    (target,) = node.output(0).get_target_inputs()
    return target.get_node()
