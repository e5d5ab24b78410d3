"""TDQ's networks of all quantizers, computed and trained as one: a product for each layer of them, instead of hundreds of small ones."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from dmq_cli.quant import StepMLP
from dmq_cli.quant.step_mlp import START, encode


class BatchedNetworks(nn.Module):
    """Holds the parameters of networks of scales, (Q, out, in) and (Q, 1, out) for each layer of Q networks of equal sizes."""

    def __init__(self, sources: Iterable[StepMLP]) -> None:
        super().__init__()
        alike: dict[tuple[object, ...], list[StepMLP]] = defaultdict(list)
        for source in sources:
            alike[(source.dim, source.period, *(tuple(parameter.shape) for parameter in source.net))].append(source)
        self.groups = list(alike.values())
        self.stacks = nn.ModuleList(nn.ParameterList(_stacked(group)) for group in self.groups)

    def place(self, timestep: Tensor) -> None:
        """Hand every network its outputs at these timesteps, (1,) or (B,), see StepMLP.given."""
        for group, stack in zip(self.groups, self.stacks, strict=True):
            outputs = _outputs(list(stack.parameters()), encode(timestep, group[0].dim, group[0].period))
            for source, factors in zip(group, outputs, strict=True):
                source.given = factors

    @torch.no_grad()
    def finish(self) -> None:
        """Write the parameters back to each network, which computes its own outputs again."""
        for group, stack in zip(self.groups, self.stacks, strict=True):
            for place, stacked in enumerate(stack.parameters()):
                for source, value in zip(group, stacked, strict=True):
                    source.net[place].copy_(value.reshape(source.net[place].shape))
            for source in group:
                source.given = None


def _stacked(group: list[StepMLP]) -> list[nn.Parameter]:
    nets = [list(source.net) for source in group]
    stacks = [torch.stack([parameter.detach() for parameter in layer]) for layer in zip(*nets, strict=True)]
    return [nn.Parameter(stack if stack.ndim == 3 else stack[:, None]) for stack in stacks]


def _outputs(stack: list[Tensor], encoding: Tensor) -> Tensor:
    """(Q, B, outputs): softplus of every network, as in StepMLP but in the parameters' own precision."""
    value = encoding.to(stack[0]).expand(len(stack[0]), -1, -1)
    for number, (weight, bias) in enumerate(zip(stack[::2], stack[1::2], strict=True)):
        value = torch.baddbmm(bias, value.relu() if number else value, weight.transpose(1, 2))
    return nn.functional.softplus(value + START)
