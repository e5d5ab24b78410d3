"""Record the inputs of the mid-block's attention along trajectories."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.models import Adapter, Denoiser
from dmq_cli.sampling import UNGUIDED, Guide, Scheduler, batches, walk

# Not the run's batch size: rounding differs with it, and a step on the edge of a radius would then be counted or not.
_TOGETHER = 8


def mid_features(
    adapter: Adapter | None, denoiser: Denoiser, scheduler: Scheduler, seeds: range, shape: Sequence[int], eta: float,
    guide: Guide = UNGUIDED,
) -> Iterator[Tensor]:  # fmt: skip
    """Walk the trajectories, a few at a time, and yield the inputs (S, B, C, ...) of their S calls, on the CPU.

    With guidance those of the conditional half, which the network reads last.
    adapter: names the network that `denoiser` runs. Raises ConfigError if it has no attention in its mid-block.
    """
    attention = mid_attention(adapter)
    inputs_by_call: list[Tensor] = []
    last: list[Tensor] = []

    def keep(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        read: Tensor = inputs[0].detach()
        channels_first = read.transpose(1, 2) if read.ndim == 3 else read  # transformers' tokens are (B, N, C)
        last[:] = [channels_first]

    for batch in batches(seeds, _TOGETHER):
        hook = attention.register_forward_pre_hook(keep)
        try:
            for _ in walk(denoiser, scheduler, batch, shape, eta=eta, guide=guide):
                inputs_by_call.append(last.pop()[-len(batch) :].to("cpu", copy=True))
        finally:
            hook.remove()
        yield torch.stack(inputs_by_call)
        inputs_by_call.clear()


def mid_attention(adapter: Adapter | None) -> nn.Module:
    """The first attention of the mid-block. Raises ConfigError if there is none, or no adapter to find it."""
    if adapter is None:
        raise ConfigError("This calibration strategy looks into the network; give collect its adapter.")
    for attention in adapter.attentions():
        if attention.part == "mid":
            return adapter.model.get_submodule(attention.name)
    parts = ", ".join(sorted({attention.part for attention in adapter.attentions()})) or "no attention at all"
    raise ConfigError(
        f"This calibration strategy reads the attention of the mid-block, but the network has none there (found: {parts});"
        " use calib=uniform."
    )
