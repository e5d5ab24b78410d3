"""Short trainings of the small network."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dmq_cli.ops import LsqStart, PerTensor
from dmq_cli.qat import Latent, Lsq, Qat, Settings
from dmq_cli.quant import Uniform
from dmq_cli.wrap import Attached, Rule
from tests.recon.runs import small
from tests.tiny import batches

NUM = 12
PER_LAYER = Rule(
    "*.weight", grid=partial(Uniform, symmetric=True, narrow=True), granularity=PerTensor(), ranges=LsqStart()
)
WHOLE = Rule("resnet.shortcut.*", part="up", split=False)


def trained_network(*rules: Rule, **options: Any) -> Attached:
    """Every quantizer as in LSQ, unless the rules say otherwise."""
    return small(PER_LAYER, WHOLE, *rules, **options)


def training(iterations: int = 4, **fields: Any) -> Qat:
    """A distillation. fields: of Qat, or of its settings."""
    qat_fields = {name: fields.pop(name) for name in ("weights", "gradients", "loss", "data") if name in fields}
    settings = {"batch_size": 4, "lr": 1e-3, "ema": 0.5, "candidates": 2, "save_every": 2, **fields}
    whole = {"weights": Latent(), "gradients": Lsq(), "loss": "distill", **qat_fields}
    return Qat(Settings(iterations, **settings), **whole)


def run(
    method: Qat,
    attached: Attached,
    work: Path,
    stop: Callable[[int], bool] = lambda step: False,
    dtype: torch.dtype = torch.float64,
    **more: Any,
) -> list[float]:
    """Train, and return the loss of every step. stop(step): kills the run after it."""
    losses: list[float] = []

    def report(unit: str, iteration: int, iterations: int, loss: float, **_: Any) -> None:
        losses.append(loss)
        if stop(iteration // method.settings.batch_size):
            raise KeyboardInterrupt

    method.run(attached, lambda: batches(NUM, 4, dtype), NUM, work, report, **more)
    return losses
