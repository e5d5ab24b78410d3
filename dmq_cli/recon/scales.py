"""Learned activation scales: Adam with a cosine to 0 (BRECQ, QDrop); for TDQ the parameters are those of its networks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.quant import ScaleSource, TensorQuantizer, source_of
from dmq_cli.recon.learners import Learner, cosine


@dataclass(frozen=True)
class Scales:
    """Learned activation scales; zero points stay. decay: cosine of the learning rate to 0.

    relative: the learning rate of a scale is lr times the scale it starts from (of a table: their mean). The released codes
    use lr as it is, which moves the small scales of many bits by many times their size. Networks of scales (TDQ) are
    relative by themselves.
    """

    lr: float = 4e-4
    decay: bool = True
    relative: bool = True

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise ConfigError(f"Scales were asked for lr={self.lr}; use a positive number.")

    def start(self, quantizers: Iterable[TensorQuantizer], iterations: int) -> Learner | None:
        """The learner, or None if no scale here has a parameter."""
        sources = [source for source in map(source_of, quantizers) if source.learnable()]
        return _Steps(self, sources, iterations) if sources else None


class _Steps:
    def __init__(self, record: Scales, sources: list[ScaleSource], iterations: int) -> None:
        self.bounds = [bound for source in sources for bound in source.bounds()]
        groups = [{"params": source.learnable(), "lr": record.lr * self._unit(record, source)} for source in sources]
        self.parameters = [parameter for source in sources for parameter in source.learnable()]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer: torch.optim.Optimizer = torch.optim.Adam(groups)
        self.scheduler = cosine(self.optimizer, iterations) if record.decay else None

    @staticmethod
    def _unit(record: Scales, source: ScaleSource) -> float:
        """What the learning rate of a source is relative to."""
        scales = [parameter.detach().mean() for parameter, _ in source.bounds()] if record.relative else []
        return float(torch.stack(scales).mean()) if scales else 1.0

    def penalty(self, iteration: int) -> Tensor | None:
        return None

    def seen(self, loss: float) -> None:
        pass

    @torch.no_grad()
    def settle(self) -> None:
        for scale, least in self.bounds:
            scale.clamp_(min=least)

    def finish(self) -> None:
        for parameter in self.parameters:
            parameter.requires_grad_(False)
