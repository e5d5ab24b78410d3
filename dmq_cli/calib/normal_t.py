"""Normally distributed timestep calibration (NDTC).

Shang et al., Post-training Quantization on Diffusion Models (PTQ4DM), CVPR 2023 (arXiv:2211.15736). One timestep for each
trajectory, in training units, T the model's number of training timesteps:

    t ~ Normal(mean T, (std T)^2), cut to its integer part, clamped to [0, T - 1]

The paper asks for mean <= 1/2, towards the image's end; the released script sets mean = std = 0.4, the code's defaults are 0.5
and 0.35; it draws 1024.

Deliberate deviations from the released code:

* It picks x by the loop's index, which counts from the noisiest step, after that step, and labels it with the index as if it
  were the timestep: time runs backwards in its labels. Here x_t comes with the timestep at which the network sees it.
* It passes the network steps of the shortened sampler, not training timesteps. Here t is drawn in training units, and the
  sampler's timestep nearest to it, the noisier one on a tie, is what is kept and what x_t is paired with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.calib.strategy import Features, OnePerTrajectory, generator
from dmq_cli.errors import ConfigError
from dmq_cli.sampling import Scheduler, parse_range


@dataclass(frozen=True)
class NormalT(OnePerTrajectory):
    """One input of each trajectory, at a normally distributed timestep.

    seeds: a range like "1000000-1001023". mean, std: fractions of the training timesteps, 0 to 1.
    """

    mean: float = 0.4
    std: float = 0.4
    draw_seed: int = 0

    def draw(self, num: int, training: int) -> Tensor:
        """Timesteps (num,) int64 in 0..training - 1, before the sampler's nearest ones are looked up."""
        normal = torch.randn(num, generator=generator(self.draw_seed), dtype=torch.float64)
        return (self.mean * training + self.std * training * normal).trunc().clamp(0, training - 1).long()

    def check(self, sampler_scheduler: Scheduler) -> None:
        """Raise ConfigError for a mean or a spread that is no fraction, and for an impossible seed."""
        for name, value in (("mean", self.mean), ("std", self.std)):
            if not 0 <= value <= 1:
                raise ConfigError(f"calib.{name}={value} is no fraction of the training timesteps; use 0 to 1.")
        generator(self.draw_seed)

    def evaluations(self, total: int) -> int:
        """Network calls: every call of every trajectory."""
        return len(parse_range(self.seeds)) * total

    def choose(self, scheduler: Scheduler, features: Features) -> list[list[int]]:
        """Choose one call of each trajectory: the one whose timestep is nearest to the drawn one."""
        drawn = self.draw(len(parse_range(self.seeds)), int(scheduler.config.num_train_timesteps))
        nearest = (drawn[:, None] - scheduler.timesteps).abs().argmin(dim=1)  # the first, so the noisier, on a tie
        return [[call] for call in nearest.tolist()]
