"""How a scheme asks for scales: records that build the scale source of one quantizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.quant.context import StepContext
from dmq_cli.quant.grids import Grid, Uniform
from dmq_cli.quant.low_end import Ends, LowEnd
from dmq_cli.quant.scales import Dynamic, Intervals, PerStep, Static
from dmq_cli.quant.step_mlp import StepMLP

TRAINING_TIMESTEPS = 1000
"""Timesteps that almost every network was trained at."""


@dataclass(frozen=True)
class Slot:
    """What a scale source is built for. timesteps: (S,) of the sampler; shape: of one row of scales, () per tensor; ends:
    which ends of the range learning moves; total: timesteps that the network was trained at."""

    grid: Grid
    context: StepContext
    timesteps: Tensor
    shape: tuple[int, ...] = ()
    ends: Ends = "scale"
    total: int = TRAINING_TIMESTEPS

    @property
    def low_end(self) -> LowEnd | None:
        """How the zero point follows from the lower end; None where it is stored, as on grids whose zero point is 0."""
        grid = self.grid
        if self.ends == "scale" or not isinstance(grid, Uniform) or grid.symmetric or grid.from_zero:
            return None
        return LowEnd(grid.lo, grid.hi, learned=self.ends == "low_learned")


class ScaleKind(Protocol):
    """A way to get scales."""

    @property
    def varies(self) -> bool:
        """Whether they depend on step or input, which weights have not."""
        ...

    @property
    def by_step(self) -> bool:
        """Whether there is a row for each of the sampler's steps, so that other timesteps take a neighbour's."""
        ...

    def build(self, slot: Slot) -> nn.Module:
        """The source, with unit scales where they are still to be fitted. ConfigError if it does not fit the slot."""
        ...


@dataclass(frozen=True)
class StaticScale:
    """One for all steps and inputs."""

    varies = False
    by_step = False

    def build(self, slot: Slot) -> nn.Module:
        """See `Static`."""
        return Static(torch.ones(slot.shape), torch.zeros(slot.shape), low_end=slot.low_end)


@dataclass(frozen=True)
class PerStepScale:
    """One for each step of the sampler (TFMQ-DM's finite set, QuEST's sets)."""

    varies = True
    by_step = True

    def build(self, slot: Slot) -> nn.Module:
        """See `PerStep`."""
        shape = (len(slot.timesteps), *slot.shape)
        return PerStep(slot.context, torch.ones(shape), torch.zeros(shape), low_end=slot.low_end)


@dataclass(frozen=True)
class IntervalScale:
    """One for each of num equal intervals of the training timesteps. ConfigError for num < 1.

    total: how many these are; None: as many as the network was trained at.
    """

    num: int
    total: int | None = None
    varies = True
    by_step = False

    def __post_init__(self) -> None:
        self.over(max(TRAINING_TIMESTEPS, self.num))

    def over(self, training: int) -> int:
        """The timesteps that are divided, of a network trained at so many. ConfigError for more sets than these, or none."""
        total = training if self.total is None else self.total
        if not 1 <= self.num <= total:
            raise ConfigError(f"Intervals were asked for num={self.num} sets over {total} timesteps; use 1 to {total}.")
        return total

    def build(self, slot: Slot) -> nn.Module:
        """See `Intervals`. ConfigError for more sets than timesteps."""
        shape, total = (self.num, *slot.shape), self.over(slot.total)
        return Intervals(slot.context, torch.ones(shape), torch.zeros(shape), total, low_end=slot.low_end)


@dataclass(frozen=True)
class MlpScale:
    """A small network of the timestep (TDQ). ConfigError for sizes that cannot be, or scales per channel."""

    dim: int = 64
    width: int = 64
    layers: int = 4
    period: float = 10_000.0
    varies = True
    by_step = False

    def __post_init__(self) -> None:
        if self.dim < 2 or self.dim % 2 or self.width < 1 or self.layers < 1 or self.period <= 1:
            raise ConfigError(
                f"MlpScale was asked for dim={self.dim}, width={self.width}, layers={self.layers}, period={self.period};"
                " dim is even and at least 2, width and layers are at least 1, period is above 1."
            )

    def build(self, slot: Slot) -> nn.Module:
        """See `StepMLP`."""
        if slot.shape:
            raise ConfigError(
                f"MlpScale was asked for scales of shape {slot.shape}, but its network gives one for a tensor;"
                " leave granularity at PerTensor."
            )
        return StepMLP(slot.context, self.dim, self.width, self.layers, self.period, slot.total, slot.low_end)


@dataclass(frozen=True)
class DynamicScale:
    """Min-max of the input at every call, of each sample: a range of the batch would make results depend on its size."""

    varies = True
    by_step = False

    def build(self, slot: Slot) -> nn.Module:
        """See `Dynamic`. ConfigError for scales per channel."""
        if slot.shape:
            raise ConfigError(
                f"DynamicScale was asked for scales of shape {slot.shape}, but takes the range of whole tensors;"
                " leave granularity at PerTensor."
            )
        return Dynamic(slot.grid)
