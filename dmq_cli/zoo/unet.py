"""Trains `ddim_digits`, the embedded pixel diffusion model: the network is google/ddpm-cifar10-32 scaled down."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.zoo.digits import digit_images, split, to_float
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


def train_unet(config: Training, work: Path, report: StepReport) -> dict[str, Any]:
    """Train, going on from the checkpoint in `work` if there is one; write `work`/model as a diffusers folder.

    report(step, steps, loss) is called often. Returns the losses of the averaged weights on both parts of the data.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(config.seed)
    model = UNet2DModel(**ARCHITECTURE).train()
    images, alphas = to_float(digit_images()[0]), alphas_cumprod(SCHEDULER)
    train, held_out = split(len(images), config.held_out, config.seed)

    def loss(network: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        timesteps = stratified(len(rows), generator)
        noise = torch.randn(len(rows), *images.shape[1:], generator=generator)
        return diffusion_loss(_predict(network), alphas, images[train[rows]], timesteps, noise)

    average = TrainingRun(config, model, work, len(train), loss).finish(report)
    average.save_pretrained(work / "model" / "unet")
    DDPMScheduler(**SCHEDULER).save_pretrained(work / "model" / "scheduler")
    return {
        "training": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss_train": evaluate_loss(_predict(average), alphas, images[train[: len(held_out)]]),
        "loss_held_out": evaluate_loss(_predict(average), alphas, images[held_out]),
    }


def _predict(network: nn.Module) -> Predict:
    return lambda noisy, timesteps: network(noisy, timesteps).sample
