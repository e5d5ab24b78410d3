"""Learned activation scales: Adam with a cosine to 0 (BRECQ, QDrop); for TDQ the parameters are those of its networks.

Deliberate deviation from all released codes: after every step a scale is at least 1e-8. Adam's first steps are as long as the learning
rate, whatever the gradient; where that is absolute and greater than a scale (EDA-DM's 5e-4 at eight bits) nothing else keeps it from
passing 0, and a negative scale turns the clipping around: as released, EDA-DM at W4A8 loses an attention of the embedded model so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.quant import ScaleSource, TensorQuantizer, source_of
from dmq_cli.recon.learners import Learner, cosine


@dataclass(frozen=True)
class Scales:
    """Learned activation scales, and lower ends where the scheme says range=low_learned. decay: cosine of the learning rate to 0.

    relative: the learning rate of a scale is lr times the scale it starts from (of a table: their mean). The released codes
    use lr as it is, which moves the small scales of many bits by many times their size. Networks of scales (TDQ) are
    relative by themselves.
    """

    lr: float = 4e-4
    decay: bool = True
    relative: bool = True

    def __post_init__(self) -> None:
        if self.lr < 0:
            raise ConfigError(f"Scales were asked for lr={self.lr}; use a positive number, or 0 for scales that stay.")

    def start(self, quantizers: Iterable[TensorQuantizer], iterations: int) -> Learner | None:
        """The learner, or None if no scale here has a parameter."""
        learning = [quantizer for quantizer in quantizers if source_of(quantizer).learnable()]
        return _Steps(self, learning, iterations) if learning else None


class _Steps:
    def __init__(self, record: Scales, quantizers: list[TensorQuantizer], iterations: int) -> None:
        self.sources = [source_of(quantizer) for quantizer in quantizers]
        parameter_groups = [group for quantizer in quantizers for group in groups(record, quantizer)]
        self.parameters = [parameter for group in parameter_groups for parameter in group["params"]]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(parameter_groups)
        self.scheduler = cosine(self.optimizer, iterations) if record.decay else None

    def penalty(self, iteration: int) -> Tensor | None:
        return None

    def seen(self, loss: float) -> None:
        pass

    def settle(self) -> None:
        settle(self.sources)

    def finish(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)


@torch.no_grad()
def settle(sources: Iterable[ScaleSource]) -> None:
    """Bring scales back to their least value, and lower ends to 0, where a step took them beyond.

    A lower end above 0 would stand for no code: the zero point stays at the lowest one and passes no gradient that brings it back.
    """
    for source in sources:
        for scale, least in source.bounds():
            scale.clamp_(min=least)
        for low in source.low_ends():
            low.clamp_(max=0.0)


def groups(record: Scales, quantizer: TensorQuantizer) -> list[dict[str, Any]]:
    """What an optimiser takes of a source: its scales, and a lower end by itself.

    A rate that is relative moves the lower end as far as the upper one; an absolute one is that of both as they are stored, so that at many
    codes the lower end hardly moves beside the upper, which moves by all of them at once.
    """
    source = source_of(quantizer)
    lows = {id(parameter) for parameter in source.low_ends()}
    rate = record.lr * (_unit(source) if record.relative else 1.0)
    codes = quantizer.grid.hi - quantizer.grid.lo if record.relative else 1
    apart = [[p for p in source.learnable() if (id(p) in lows) == low] for low in (False, True)]
    return [{"params": group, "lr": lr} for group, lr in zip(apart, (rate, rate * codes), strict=True) if group]


def _unit(source: ScaleSource) -> float:
    """What the learning rate of a source is relative to."""
    scales = [parameter.detach().mean() for parameter, _ in source.bounds()]
    return float(torch.stack(scales).mean()) if scales else 1.0
