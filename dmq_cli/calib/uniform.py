"""Uniform timestep calibration.

Li et al., Q-Diffusion, ICCV 2023 (arXiv:2302.04304), section 3.2: the same number of samples at evenly spaced steps of the
sampler. Of S calls those with number floor(i S / num_steps) are kept, i = 0 .. num_steps - 1, so that they reach the end also where
num_steps does not divide S.

With num_steps >= S every call is kept: TFMQ-DM's finite set (Huang et al., CVPR 2024, arXiv:2311.16503), one group of samples
for each timestep. Deviation: TFMQ-DM draws new noise for every timestep and denoises down to it, O(S^2) evaluations of the
network; here all steps are those of the same trajectories, O(S), so the groups are not independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmq_cli.calib.strategy import Features
from dmq_cli.errors import ConfigError
from dmq_cli.sampling import Scheduler, parse_range


@dataclass(frozen=True)
class UniformSteps:
    """Keeps evenly spaced steps of the sampler, at most num_steps, of every seed's trajectory.

    seeds: a range like "10-73".
    """

    seeds: str
    num_steps: int

    def steps(self, total: int) -> list[int]:
        """Calls whose inputs are kept, of `total`, as evenly spaced as whole numbers can be. Raises ConfigError for none."""
        if self.num_steps < 1:
            raise ConfigError(f"calib.num_steps={self.num_steps} keeps nothing of a trajectory; use at least 1.")
        count = min(self.num_steps, total)
        return [number * total // count for number in range(count)]

    def check(self, sampler_scheduler: Scheduler) -> None:
        """Raise ConfigError if no step would be kept."""
        self.steps(len(sampler_scheduler.timesteps))

    def scheduler(self, sampler_scheduler: Scheduler) -> Scheduler:
        """The sampler's own."""
        return sampler_scheduler

    def size(self, total: int) -> int:
        """Rows: trajectories times steps."""
        return len(parse_range(self.seeds)) * len(self.steps(total))

    def evaluations(self, total: int) -> int:
        """Network calls: every call of every trajectory."""
        return len(parse_range(self.seeds)) * total

    def choose(self, scheduler: Scheduler, features: Features) -> list[list[int]]:
        """Choose the same calls of every trajectory."""
        return [self.steps(len(scheduler.timesteps))] * len(parse_range(self.seeds))
