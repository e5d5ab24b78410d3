"""Resumable training, shared by all embedded diffusion models, and the loss of those that predict noise.

Ho, Jain, Abbeel: Denoising Diffusion Probabilistic Models, NeurIPS 2020 (arXiv 2006.11239), algorithm 1 with L_simple
(eq. 14). Two things differ from the paper's training: timesteps are stratified within a batch, which lowers the variance of
the loss, and the learning rate decays to zero along a cosine.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from dmq_cli.store.tensors import save_tensors

StepReport = Callable[[int, int, float], None]
Loss = Callable[[Any, Tensor, torch.Generator], Tensor]
Predict = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Training:
    """Settings of a training. steps: optimizer steps; warmup in steps; ema: decay per step; held_out: fraction."""

    steps: int = 6000
    batch_size: int = 64
    lr: float = 6e-4
    warmup: int = 200
    ema: float = 0.9985
    held_out: float = 0.1
    seed: int = 0
    save_every: int = 250


class TrainingRun:
    """A training run that can stop and go on: model, average, optimizer and step, saved together.

    loss(model, rows, generator) is the loss of `rows` (batch_size,), indices below `num_rows`; all its random numbers come
    from the generator, which depends on seed and step only.
    """

    def __init__(self, config: Training, model: nn.Module, work: Path, num_rows: int, loss: Loss) -> None:
        self.config, self.model, self.num_rows, self.loss = config, model, num_rows, loss
        self.file, self.step = work / "checkpoint.safetensors", 0
        self.average: Any = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=config.lr)
        if self.file.exists():
            self._restore()

    def finish(self, report: StepReport) -> Any:
        """Take the remaining steps, report(step, steps, loss) after each, and return the averaged model in evaluation mode."""
        while self.step < self.config.steps:
            loss = self._advance()
            report(self.step, self.config.steps, loss)
        return self.average

    def _advance(self) -> float:
        config = self.config
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + self.step)
        rows = torch.randint(self.num_rows, (config.batch_size,), generator=generator)
        for group in self.optimizer.param_groups:
            group["lr"] = config.lr * self._schedule()
        loss = self.loss(self.model, rows, generator)
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
        return tensors | optimizer_tensors(self.optimizer)

    def _save(self) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        save_tensors(self.file, self._tensors(), {"step": str(self.step)})

    def _restore(self) -> None:
        with safe_open(self.file, "pt") as file:
            self.step = int(file.metadata()["step"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        for name, module in (("model.", self.model), ("average.", self.average)):
            module.load_state_dict({k.removeprefix(name): v for k, v in tensors.items() if k.startswith(name)})
        restore_optimizer(self.optimizer, tensors)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The state of an optimizer as tensors, optimizer.NUMBER.FIELD, for a checkpoint."""
    states = optimizer.state_dict()["state"].items()
    return {f"optimizer.{index}.{k}": torch.as_tensor(v) for index, state in states for k, v in state.items()}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave; other tensors are not looked at."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, field = key.split(".")
            state.setdefault(int(index), {})[field] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def alphas_cumprod(schedule: Mapping[str, Any]) -> Tensor:
    """The products of (1 - beta) of a linear or scaled_linear schedule in diffusers' words, (T,) float32."""
    power = 0.5 if schedule["beta_schedule"] == "scaled_linear" else 1.0
    first, last = schedule["beta_start"] ** power, schedule["beta_end"] ** power
    betas = torch.linspace(first, last, schedule["num_train_timesteps"], dtype=torch.float64) ** (1 / power)
    return torch.cumprod(1 - betas, 0).float()


def stratified(count: int, generator: torch.Generator, total: int = 1000) -> Tensor:
    """One timestep of `total` from each of `count` equal intervals, (count,) int64."""
    strata = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return (strata * total).long().clamp_max(total - 1)


def diffusion_loss(predict: Predict, alphas: Tensor, samples: Tensor, timesteps: Tensor, noise: Tensor) -> Tensor:
    """L_simple (Ho et al. 2020, eq. 14): mean squared error of predict(noisy samples, timesteps), the noise."""
    alpha = alphas[timesteps].view(-1, 1, 1, 1)
    noisy = alpha.sqrt() * samples + (1 - alpha).sqrt() * noise
    return nn.functional.mse_loss(predict(noisy, timesteps), noise)


@torch.no_grad()
def evaluate_loss(predict: Predict, alphas: Tensor, samples: Tensor) -> float:
    """The loss over 50 evenly spaced timesteps with fixed noise: comparable between two sets of equal size."""
    generator = torch.Generator().manual_seed(1)
    total = 0.0
    for timestep in range(10, 1000, 20):
        noise = torch.randn(samples.shape, generator=generator)
        total += float(diffusion_loss(predict, alphas, samples, torch.full((len(samples),), timestep), noise))
    return total / 50
