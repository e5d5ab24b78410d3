"""The interface of a calibration strategy: it chooses trajectories, and which network inputs of each are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.sampling import Scheduler, parse_range

Features = Callable[[int], Iterator[Tensor]]
"""features(num): inputs of the mid-block's attention on the first `num` trajectories (all of them if there are fewer), in
pieces (S, B, C, ...) of a few trajectories, S the calls in order. Each use walks those trajectories once more."""


class Strategy(Protocol):
    """One way of choosing a calibration set. Its choice depends on its fields, the scheduler and the features alone.

    `total` is everywhere the number of calls of the sampler's own scheduler.
    """

    @property
    def seeds(self) -> str:
        """The trajectories, a range like "1000000-1000127"."""
        ...

    def check(self, sampler_scheduler: Scheduler) -> None:
        """Raise ConfigError for fields that are impossible with the sampler's scheduler; called before anything is computed."""
        ...

    def scheduler(self, sampler_scheduler: Scheduler) -> Scheduler:
        """The scheduler that the trajectories are walked with: sampler_scheduler, which is not changed, or another one."""
        ...

    def size(self, total: int) -> int:
        """Rows of the set."""
        ...

    def evaluations(self, total: int) -> int:
        """Network calls on one sample that making the set takes."""
        ...

    def choose(self, scheduler: Scheduler, features: Features) -> list[list[int]]:
        """For each trajectory in the order of `seeds`, the calls whose inputs are kept, ascending, no call twice.

        scheduler: what self.scheduler gave; calls count in its list.
        """
        ...


@dataclass(frozen=True)
class OnePerTrajectory:
    """Base of strategies that keep one input of each trajectory. seeds: a range like "1000000-1001023"."""

    seeds: str

    def scheduler(self, sampler_scheduler: Scheduler) -> Scheduler:
        """The sampler's own."""
        return sampler_scheduler

    def size(self, total: int) -> int:
        """One row for each trajectory."""
        return len(parse_range(self.seeds))


def generator(draw_seed: int) -> torch.Generator:
    """Make a CPU generator for a strategy's own draws. Raises ConfigError for an impossible seed."""
    if not 0 <= draw_seed < 2**63:
        raise ConfigError(f"calib.draw_seed={draw_seed} is no seed; use a whole number from 0 to 2^63 - 1.")
    return torch.Generator().manual_seed(draw_seed)
