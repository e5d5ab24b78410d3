"""Layers of a deployed network beside those of the simulated one, each from the same input: codes, and outputs."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmq_cli.deploy.backends import RunLayer
from dmq_cli.deploy.lower import Lowered, integer_layer
from dmq_cli.models import Call
from dmq_cli.wrap import Attached, QuantDenoiser, bake, freeze

_STEPS = 255


@dataclass
class Differences:
    """What differs. flips, codes: codes of inputs that differ, and all; farthest: the greatest difference of a code; far, outputs:
    elements of outputs that are further apart than 1/255 of the range of the layer's output, and all."""

    flips: int = 0
    codes: int = 0
    farthest: int = 0
    far: int = 0
    outputs: int = 0

    def add_codes(self, difference: Tensor) -> None:
        """Count the differences of codes, >= 0."""
        self.flips += int((difference > 0.5).sum())
        self.codes += difference.numel()
        self.farthest = max(self.farthest, round(float(difference.max())))

    def add_outputs(self, deployed: Tensor, simulated: Tensor) -> None:
        """Count the elements of an output."""
        one_code = (simulated.max() - simulated.min()) / _STEPS
        self.far += int(((deployed - simulated).abs() > one_code).sum())
        self.outputs += simulated.numel()


@torch.no_grad()
def compare_layers(attached: Attached, lowered: Lowered, run: RunLayer, calls: Iterable[Call]) -> Differences:
    """Run the simulated network, and every deployed layer on the input that the simulated one has.

    attached: the network that was lowered; calls: batches of its inputs, each at one timestep.
    """
    freeze(attached)
    bake(attached)
    differences, context = Differences(), lowered.attached.context

    def compare(name: str, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        quantized, deployed = run(name, inputs[0], context.timestep)
        for difference in integer_layer(lowered, name).code_differences(inputs[0], quantized):
            differences.add_codes(difference)
        differences.add_outputs(deployed, output)

    with contextlib.ExitStack() as stack:
        for name in lowered.integer:
            layer = attached.model.get_submodule(name)
            stack.callback(layer.register_forward_hook(functools.partial(compare, name)).remove)
        for sample, timestep, *cond in calls:
            with lowered.attached.at(timestep[:1]):
                QuantDenoiser(attached)(sample, timestep[:1], *cond)
    return differences
