"""Single layers of an exported network as OpenVINO runs them: each cut out of the graph, so that errors do not add up."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.deploy.names import PREFIX, input_of, output_of, quantized_of
from dmq_cli.deploy.openvino import FILE, compile_model, read_model
from dmq_cli.errors import ArtifactError


class SingleLayers:
    """Runs one layer of an exported network, by its name."""

    def __init__(self, folder: Path, parts: Mapping[str, int], threads: int | None = None) -> None:
        """folder: of the export; parts: how many parts the input of each layer has.

        Raises ArtifactError where a layer is not in the graph.
        """
        model = read_model(folder / FILE)
        self._layers = {name: _Layer(model, name, count, threads) for name, count in parts.items()}

    def __call__(self, name: str, x: Tensor, timestep: Tensor) -> tuple[list[Tensor], Tensor]:
        """Run layer `name` on its input x, at one timestep (1,). Returns the parts of x behind their quantizers, and the output."""
        layer = self._layers[name]
        return [_run(graph, x, timestep) for graph in layer.quantized], _run(layer.output, x, timestep)


class _Layer:
    """The graphs of one layer, compiled: one for each quantized part of its input, and that of its output.

    Apart, because a tensor that is read from outside can change what a runtime fuses.
    """

    def __init__(self, model: Any, name: str, parts: int, threads: int | None) -> None:
        ends = [output_of(name), *(quantized_of(name, part) for part in range(parts))]
        self.output, *self.quantized = (compile_model(_cut(model, input_of(name), end), threads) for end in ends)


def _cut(model: Any, start: str, end: str) -> Any:
    """The part of a graph from the tensor `start` to the tensor `end`, with the timestep as its second input."""
    from openvino import Model, opset13  # type: ignore[import-untyped]

    graph = model.clone()
    tensors = dict(_named(graph))
    if start not in tensors or end not in tensors:
        raise ArtifactError(
            f"The tensor {(start if start not in tensors else end).removeprefix(PREFIX)} is not in the exported graph, so that layer cannot be compared;"
            " export it again with this version of dmq."
        )
    source = tensors[start]
    parameter = opset13.parameter(source.get_partial_shape(), source.get_element_type())
    for target in list(source.get_target_inputs()):
        target.replace_source_output(parameter.output(0))
    timestep = graph.input("timestep").get_node()
    return Model([tensors[end]], [parameter, timestep])


def _named(graph: Any) -> Iterator[tuple[str, Any]]:
    for node in graph.get_ops():
        for output in node.outputs():
            for name in output.get_names():
                yield name, output


def _run(graph: Any, x: Tensor, timestep: Tensor) -> Tensor:
    output = graph({0: x.contiguous().numpy(), 1: timestep.numpy()})[0]
    return torch.from_numpy(output.copy())
