"""Trains the embedded pixel diffusion models, `ddim_digits` and `ddim_fashion`: google/ddpm-cifar10-32 scaled down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.zoo.data import DataName, image_parts, recorded
from dmq_cli.zoo.digits import to_float
from dmq_cli.zoo.training import (
    Predict,
    StepReport,
    Training,
    TrainingRun,
    alphas_cumprod,
    diffusion_loss,
    evaluate_loss,
    stratified,
)

ARCHITECTURE: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
SCHEDULER: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "clip_sample": False,
}
_EVALUATED = 512  # images of each part that the final loss is measured on, at most


@dataclass(frozen=True)
class UNetTraining(Training):
    """Training of a UNet of any shape on any data. data: see data.py; path: the folder of its files, None for the usual one; network:
    settings of diffusers' UNet2DModel.
    """

    data: DataName = "digits"
    path: str | None = None
    network: Mapping[str, Any] = field(default_factory=lambda: ARCHITECTURE)


def train_unet(config: Training, work: Path, report: StepReport) -> dict[str, Any]:
    """Train, going on from the checkpoint in `work` if there is one; write `work`/model as a diffusers folder.

    config: a UNetTraining; any other is of digits, with ARCHITECTURE. report(step, steps, loss) is called often. Returns the losses of
    the averaged weights on both parts of the data, of at most 512 images each. Raises as `image_parts`.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    architecture = config.network if isinstance(config, UNetTraining) else ARCHITECTURE
    torch.manual_seed(config.seed)
    model = UNet2DModel(**architecture).train()
    settings, alphas = asdict(config), alphas_cumprod(SCHEDULER)
    (images, _), (held_out, _) = image_parts(settings, architecture["sample_size"])

    def loss(network: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        timesteps = stratified(len(rows), generator)
        noise = torch.randn(len(rows), *images.shape[1:], generator=generator)
        return diffusion_loss(_predict(network), alphas, to_float(images[rows]), timesteps, noise)

    average = TrainingRun(config, model, work, len(images), loss).finish(report)
    average.save_pretrained(work / "model" / "unet")
    DDPMScheduler(**SCHEDULER).save_pretrained(work / "model" / "scheduler")
    count = min(len(held_out), _EVALUATED)
    return {
        "training": recorded(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss_train": evaluate_loss(_predict(average), alphas, to_float(images[:count])),
        "loss_held_out": evaluate_loss(_predict(average), alphas, to_float(held_out[:count])),
    }


def _predict(network: nn.Module) -> Predict:
    return lambda noisy, timesteps: network(noisy, timesteps).sample
