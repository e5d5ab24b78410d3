"""Trains `ddim_digits`, the embedded pixel diffusion model.

Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, NeurIPS 2020 (arXiv 2006.11239), algorithm 1 with L_simple
(eq. 14). The network is google/ddpm-cifar10-32 scaled down. Two things differ from the paper's training: timesteps are
stratified within a batch, which lowers the variance of the loss, and the learning rate decays to zero along a cosine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dmq_cli.zoo.digits import digit_images, split, to_float

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


@dataclass(frozen=True)
class UNetTraining:
    """How the weights are made. steps: optimizer steps; warmup in steps; ema: decay per step; held_out: fraction."""

    steps: int = 6000
    batch_size: int = 64
    lr: float = 6e-4
    warmup: int = 200
    ema: float = 0.9985
    held_out: float = 0.1
    seed: int = 0
    save_every: int = 250


def train_unet(config: UNetTraining, work: Path, report: Callable[[int, int, float], None]) -> dict[str, Any]:
    """Train, going on from the checkpoint in `work` if there is one; write `work`/model as a diffusers folder.

    report(step, steps, loss) is called often. Returns the losses of the averaged weights on both parts of the data.
    """
    from diffusers import DDPMScheduler, UNet2DModel

    torch.manual_seed(config.seed)
    model = UNet2DModel(**ARCHITECTURE).train()
    run = _Run(config, model, work)
    images = to_float(digit_images()[0])
    train, held_out = split(len(images), config.held_out, config.seed)
    while run.step < config.steps:
        loss = run.advance(images[train])
        report(run.step, config.steps, loss)
    scheduler = DDPMScheduler(**SCHEDULER)
    run.average.save_pretrained(work / "model" / "unet")
    scheduler.save_pretrained(work / "model" / "scheduler")
    return {
        "training": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss_train": evaluate_loss(run.average, images[train[: len(held_out)]]),
        "loss_held_out": evaluate_loss(run.average, images[held_out]),
    }


def alphas_cumprod() -> Tensor:
    """The products of (1 - beta) of the linear schedule, (1000,) float32."""
    return torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0).float()


def diffusion_loss(model: nn.Module, images: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
    """L_simple (Ho et al. 2020, eq. 14): mean squared error of the predicted noise."""
    alpha = alphas_cumprod()[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * images + (1 - alpha).sqrt() * noise
    return nn.functional.mse_loss(model(noisy, timesteps).sample, noise)


@torch.no_grad()
def evaluate_loss(model: nn.Module, images: Tensor) -> float:
    """The loss over 50 evenly spaced timesteps with fixed noise: comparable between two sets of equal size."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for timestep in range(10, 1000, 20):
        noise = torch.randn(images.shape, generator=generator)
        total += float(diffusion_loss(model, images, torch.full((len(images),), timestep), noise))
    return total / 50


class _Run:
    """A training run that can stop and go on: model, average, optimizer and step, saved together."""

    def __init__(self, config: UNetTraining, model: nn.Module, work: Path) -> None:
        self.config, self.model, self.file, self.step = config, model, work / "checkpoint.safetensors", 0
        self.average: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        if self.file.exists():
            self._restore()

    def advance(self, images: Tensor) -> float:
        """One optimizer step on a random batch; the batch depends on seed and step only."""
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        batch = images[torch.randint(len(images), (config.batch_size,), generator=generator)]
        strata = (
            torch.arange(config.batch_size) + torch.rand(config.batch_size, generator=generator)
        ) / config.batch_size
        noise = torch.randn(batch.shape, generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * self._schedule()
        loss = diffusion_loss(self.model, batch, (strata * 1000).long().clamp_max(999), noise)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self._update_average()
        if self.step % config.save_every == 0 or self.step == config.steps:
            self._save()
        return float(loss.detach())

    def _schedule(self) -> float:
        warm = min(1.0, (self.step + 1) / self.config.warmup)
        return warm * 0.5 * (1 + math.cos(math.pi * self.step / self.config.steps))

    @torch.no_grad()
    def _update_average(self) -> None:
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{k}": v for k, v in state.items()}
        return tensors

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        aside = self.file.with_suffix(".tmp")
        save_file({k: v.contiguous() for k, v in self._tensors().items()}, aside, {"step": str(self.step)})
        aside.replace(self.file)

    def _restore(self) -> None:
        with safe_open(self.file, "pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, field = key.split(".")
                state.setdefault(int(index), {})[field] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": state})
