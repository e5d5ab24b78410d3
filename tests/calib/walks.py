"""Two toy networks whose arithmetic is elementwise, so exact in any batch, and trajectories walked one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.models import Adapter, Layer
from dmq_cli.ops import generators, noise
from dmq_cli.sampling import DDIM
from dmq_cli.store.tensors import load_tensors
from tests.tiny import SHAPE


def toy(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    return 0.3 * sample + timestep / 1000


class Watched:
    """The same estimate through a module that passes for a mid-block attention; counts what it is asked."""

    def __init__(self, part: str = "mid") -> None:
        self.model, self.part, self.evaluations = nn.ModuleDict({"attention": nn.Identity()}), part, 0

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        self.evaluations += len(sample)
        self.model["attention"](sample * (1 + timestep / 1000))
        return toy(sample, timestep)

    def attentions(self) -> list[Layer]:
        return [Layer("attention", "attn", self.part)]

    @property
    def adapter(self) -> Adapter:
        return self  # type: ignore[return-value]


def read(folder: Path) -> tuple[Tensor, Tensor]:
    return tuple(load_tensors(folder / f"{name}.safetensors")["data"] for name in ("sample", "timestep"))  # type: ignore[return-value]


def inputs(plan: DDIM, seeds: Sequence[int], eta: float = 0.0) -> Tensor:
    """(N, S, *SHAPE): what `toy` gets at every call of every trajectory, each walked alone."""
    rows = []
    for seed in seeds:
        rngs = generators([seed])
        x, row = noise(SHAPE, rngs), []
        for at in plan.timesteps.tolist():
            row.append(x[0])
            x = plan.step(toy(x, torch.tensor([at])), at, x, eta=eta, noise=noise(SHAPE, rngs) if eta else None)
        rows.append(torch.stack(row))
    return torch.stack(rows)


def state(plan: DDIM) -> dict[str, Any]:
    """What a strategy must leave as it is."""
    return {
        "timesteps": plan.timesteps.tolist(),
        "previous": dict(plan.previous),
        "steps": plan.num_inference_steps,
        "config": dict(plan.config),
        "alphas": plan.alphas_cumprod.tolist(),
    }
