"""A lowered network as one graph for all timesteps and batch sizes: torch.export's program, which exporters translate."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.deploy.lower import Lowered
from dmq_cli.models import Adapter
from dmq_cli.wrap import Attached

_ROWS = 4  # of the example; diffusers' upsampling has another layout, and the same numbers, from 64 rows on
_MOST = 63


class _Network(nn.Module):
    """sample (B, ...), timestep (1,) and the condition's tensors to the prediction."""

    def __init__(self, attached: Attached, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.grid = attached.model, attached.grid
        self.attached, self.names = (attached,), names  # the tuple keeps it from being a second home of the modules

    def forward(self, sample: Tensor, timestep: Tensor, *cond: Tensor) -> Tensor:
        (attached,) = self.attached
        given = dict(zip(self.names, cond, strict=True)) or None
        with attached.at(timestep):
            return attached.adapter.predict(sample, timestep, given)


class _FloatNetwork(nn.Module):
    """The same of a network without quantizers."""

    def __init__(self, adapter: Adapter, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model = adapter.model
        self.adapter, self.names = (adapter,), names

    def forward(self, sample: Tensor, timestep: Tensor, *cond: Tensor) -> Tensor:
        (adapter,) = self.adapter
        return adapter.predict(sample, timestep, dict(zip(self.names, cond, strict=True)) or None)


def input_names(adapter: Adapter) -> tuple[str, ...]:
    """The inputs of the graph, in order: sample, timestep, and the tensors of the condition."""
    return ("sample", "timestep", *(adapter.blank_cond(1) or {}))


def traced(lowered: Lowered) -> Any:
    """Trace the network. Returns torch.export's ExportedProgram with inputs as input_names has them, whose rows are dynamic."""
    attached = lowered.attached
    network = _Network(attached, input_names(attached.adapter)[2:])
    return _program(network, attached.adapter, attached.grid.timesteps[:1].clone())


def traced_float(adapter: Adapter) -> Any:
    """Trace a network without quantizers, likewise."""
    return _program(_FloatNetwork(adapter, input_names(adapter)[2:]), adapter, torch.zeros(1, dtype=torch.int64))


@torch.no_grad()
def _program(network: nn.Module, adapter: Adapter, timestep: Tensor) -> Any:
    cond: Mapping[str, Tensor] = adapter.blank_cond(_ROWS) or {}
    sample = torch.zeros(_ROWS, *adapter.sample_shape())
    rows = {0: torch.export.Dim("rows", min=2, max=_MOST)}
    shapes = (rows, None, *([tuple(rows for _ in cond)] if cond else []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts about each other
        return torch.export.export(
            network.eval(), (sample, timestep, *cond.values()), strict=False, dynamic_shapes=shapes
        )
