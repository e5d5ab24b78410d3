"""The networks that are timed, with random weights: the papers' own, or small ones of the same kinds for a dry run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks import cifar
from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.models import Adapter, UNetAdapter
from dmq_cli.models.cond_unet import CondUNetAdapter
from dmq_cli.models.random_weights import fill, random_adapter
from dmq_cli.wrap import Attached, attach

_SMALL: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8, "attention_head_dim": 8,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network to time. name: of the architecture; unit: the block whose reconstruction is timed; steps: of a usual sampler."""

    title: str
    name: str
    unit: str
    batch: int
    steps: int

    def adapter(self, small: bool) -> Adapter:
        """Always the same weights."""
        return _small(self.name) if small else random_adapter(self.name, 0)


CIFAR = Case("CIFAR-10 UNet", "ddim_cifar10", "down_blocks.1.resnets.0", 256, 100)
STABLE = Case("SD v1.4 UNet", "sd14", "down_blocks.1.resnets.0", 8, 50)


def _small(name: str) -> Adapter:
    from diffusers import UNet2DConditionModel, UNet2DModel

    if name == CIFAR.name:
        pixels = UNet2DModel(
            in_channels=3, out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"), **_SMALL,
        )  # fmt: skip
        fill(pixels, 0)
        return UNetAdapter(pixels.eval().requires_grad_(False))
    latents = UNet2DConditionModel(
        cross_attention_dim=24, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **_SMALL,
    )  # fmt: skip
    fill(latents, 0)
    return CondUNetAdapter(latents.eval().requires_grad_(False), 7)


def inputs(adapter: Adapter, batch: int, device: torch.device) -> tuple[Tensor, Tensor, Mapping[str, Tensor] | None]:
    """Noise, timesteps over the schedule, and a blank condition, on the device."""
    sample = torch.randn(batch, *adapter.sample_shape(), generator=torch.Generator().manual_seed(1))
    cond = adapter.blank_cond(batch)
    placed = cond and {name: value.to(device) for name, value in cond.items()}
    return sample.to(device), torch.linspace(0, 999, batch).long().to(device), placed


def quantized(adapter: Adapter, device: torch.device) -> Attached:
    """The network (changed in place) with W4A8 quantizers on the device, fitted to one small batch."""
    attached = attach(adapter, cifar.scheme("minmax", "w4a8"), cifar.scheduler(10).timesteps)
    attached.model.to(device)
    attached.grid.to(device)
    fit_weights(attached)
    fit_activations(attached, [inputs(adapter, 2, device)])
    return attached
