"""Names of layers' tensors in a traced network, so that one layer can be cut out of the graph that a runtime executes.

While a network is traced, an operator without effect stands at the input and output of every integer layer, and behind the quantizer
of each part of its input. An exporter translates it to nothing and gives its tensor the name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.deploy.lower import Lowered

PREFIX = "dmq:"
"""Of all names that are given here."""


@torch.library.custom_op("dmq::named", mutates_args=())
def named(x: Tensor, number: int) -> Tensor:
    """x itself. number: of its name in the list that `naming` gives."""
    return x.clone()


@named.register_fake
def _(x: Tensor, number: int) -> Tensor:
    return torch.empty_like(x)


def input_of(layer: str) -> str:
    """The name of a layer's input."""
    return f"{PREFIX}{layer}:input"


def output_of(layer: str) -> str:
    """The name of a layer's output."""
    return f"{PREFIX}{layer}:output"


def quantized_of(layer: str, part: int) -> str:
    """The name of a part of a layer's input behind its quantizer."""
    return f"{PREFIX}{layer}:quantized:{part}"


@contextlib.contextmanager
def naming(lowered: Lowered) -> Iterator[list[str]]:
    """Inside, a call of the network names the tensors of its integer layers. Gives the names, which grow while it is called."""
    names: list[str] = []

    def put(x: Tensor, name: str) -> Tensor:
        names.append(name)
        tensor: Tensor = named(x, len(names) - 1)
        return tensor

    with contextlib.ExitStack() as stack:
        for name in lowered.integer:
            layer: Any = lowered.attached.model.get_submodule(name)
            stack.callback(layer.register_forward_pre_hook(_before(put, input_of(name))).remove)
            stack.callback(layer.register_forward_hook(_behind(put, output_of(name))).remove)
            for number, quantizer in enumerate(layer.quantizers()):
                stack.callback(quantizer.register_forward_hook(_behind(put, quantized_of(name, number))).remove)
        yield names


def _before(put: Callable[[Tensor, str], Tensor], name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], Tensor]:
    return lambda _, inputs: put(inputs[0], name)


def _behind(put: Callable[[Tensor, str], Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    return lambda _, __, output: put(output, name)
