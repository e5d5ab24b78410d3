"""Random timesteps of every trajectory.

So et al., Temporal Dynamic Quantization for Diffusion Models (TDQ), NeurIPS 2023 (arXiv:2306.02316), post-training setting:
5,120 inputs, 256 images at 20 random timesteps each. Its intervals are functions of t that must also hold at timesteps that a
sampler with few steps leaves out.

Choices of this project: a trajectory gives no timestep twice, each has its own draw, and trajectories have their own number of
evenly spaced steps, 100 as in the paper's evaluation, so that the network is watched at more timesteps than the sampler visits.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dmq_cli.calib.strategy import Features, generator
from dmq_cli.errors import ConfigError
from dmq_cli.sampling import Scheduler, parse_range


@dataclass(frozen=True)
class RandomT:
    """Keeps num_steps random inputs of every trajectory, all of them if it has fewer.

    seeds: a range like "1000000-1000255". trajectory_steps: steps of a trajectory; None: the sampler's own timesteps.
    """

    seeds: str
    num_steps: int = 20
    trajectory_steps: int | None = 100
    draw_seed: int = 0

    def check(self, sampler_scheduler: Scheduler) -> None:
        """Raise ConfigError for impossible numbers of steps, and for an impossible seed."""
        training, steps = int(sampler_scheduler.config.num_train_timesteps), self.trajectory_steps
        if self.num_steps < 1:
            raise ConfigError(f"calib.num_steps={self.num_steps} keeps nothing of a trajectory; use at least 1.")
        if steps is not None and not 1 <= steps <= training:
            raise ConfigError(
                f"calib.trajectory_steps={steps} does not fit a model of {training} timesteps; use 1 to {training}, or null"
                " for the sampler's own."
            )
        generator(self.draw_seed)

    def scheduler(self, sampler_scheduler: Scheduler) -> Scheduler:
        """DDIM with trajectory_steps evenly spaced timesteps and the sampler's noise schedule, or the sampler's own."""
        return sampler_scheduler if self.trajectory_steps is None else sampler_scheduler.dense(self.trajectory_steps)

    def size(self, total: int) -> int:
        """Rows: trajectories times kept timesteps."""
        return len(parse_range(self.seeds)) * min(self.num_steps, self.trajectory_steps or total)

    def evaluations(self, total: int) -> int:
        """Network calls: every call of every trajectory."""
        return len(parse_range(self.seeds)) * (self.trajectory_steps or total)

    def choose(self, scheduler: Scheduler, features: Features) -> list[list[int]]:
        """Choose random calls of each trajectory, drawn one trajectory after the other."""
        random, total = generator(self.draw_seed), len(scheduler.timesteps)
        return [
            torch.randperm(total, generator=random)[: self.num_steps].sort().values.tolist()
            for _ in parse_range(self.seeds)
        ]
