"""A lowered network as one graph for all timesteps and batch sizes: torch.export's program, which exporters translate."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.deploy.lower import Lowered
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


def input_names(attached: Attached) -> tuple[str, ...]:
    """The inputs of the graph, in order: sample, timestep, and the tensors of the condition."""
    return ("sample", "timestep", *(attached.adapter.blank_cond(1) or {}))


@torch.no_grad()
def traced(lowered: Lowered) -> Any:
    """Trace the network. Returns torch.export's ExportedProgram with inputs as input_names has them, whose rows are dynamic."""
    attached = lowered.attached
    cond: Mapping[str, Tensor] = attached.adapter.blank_cond(_ROWS) or {}
    network = _Network(attached, tuple(cond)).eval()
    sample = torch.zeros(_ROWS, *attached.adapter.sample_shape())
    timestep = attached.grid.timesteps[:1].clone()
    rows = {0: torch.export.Dim("rows", min=2, max=_MOST)}
    shapes = (rows, None, *([tuple(rows for _ in cond)] if cond else []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own parts about each other
        return torch.export.export(network, (sample, timestep, *cond.values()), strict=False, dynamic_shapes=shapes)
