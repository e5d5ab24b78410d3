"""Measure max |input| of every layer, timestep and channel, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.errors import NumericsError
from dmq_cli.models import Adapter, ModelDenoiser
from dmq_cli.ops import PerInputChannel
from dmq_cli.transform.base import BatchReport, Data

ChannelMaxima = tuple[Tensor, Tensor]
"""The timesteps of the set, sorted, (T,) int64; max |input| at each of them, (T, C), in the dtype of the input."""


class Extremes:
    """Running max |input| of one layer."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.rows: dict[int, Tensor] = {}

    def update(self, value: Tensor, timestep: Tensor) -> None:
        """value: (B, C), (B, N, C) or (B, C, H, W); timestep: (B,)."""
        reach = PerInputChannel().channels(value).abs().amax(2)
        for time in sorted(set(timestep.tolist())):
            row = reach[timestep == time].amax(0)
            self.rows[time] = torch.maximum(self.rows[time], row) if time in self.rows else row

    def table(self) -> ChannelMaxima:
        """Return the maxima. Raises NumericsError if there were no inputs, or some not finite."""
        if not self.rows:
            raise NumericsError(
                f"The layer {self.name} got no inputs from the calibration set; use a set with at least one sample."
            )
        steps = sorted(self.rows)
        table = torch.stack([self.rows[step] for step in steps])
        if not bool(table.isfinite().all()):
            raise NumericsError(
                f"The input of the layer {self.name} has values that are not finite; check the weights of the model."
            )
        return torch.tensor(steps), table


@torch.no_grad()
def channel_maxima(
    adapter: Adapter, data: Data, names: Collection[str] | None = None, report: BatchReport = lambda num_done: None
) -> dict[str, ChannelMaxima]:
    """Measure max |input| of layers, by their path, in model order. names: of the layers; None: all.

    The network runs as it is, so give it in full precision. Channels are dimension 1 of (B, C, H, W), else the last one.
    Raises NumericsError for NaN or infinity, and for an empty set.
    """
    by_layer = {layer.name: Extremes(layer.name) for layer in adapter.layers() if names is None or layer.name in names}
    current: list[Tensor] = []

    def hook(extremes: Extremes) -> Any:
        def see(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            extremes.update(inputs[0].detach(), current[0])

        return see

    hooks = [adapter.model.get_submodule(n).register_forward_pre_hook(hook(e)) for n, e in by_layer.items()]
    try:
        denoiser, num_done = ModelDenoiser(adapter), 0
        for batch in data():
            current[:] = [batch[1].to(next(adapter.model.parameters()).device)]
            denoiser(*batch)
            num_done += len(batch[0])
            report(num_done)
    finally:
        for handle in hooks:
            handle.remove()
    return {name: extremes.table() for name, extremes in by_layer.items()}
