"""At which step of the time grid the model runs: a scoped value, and the map from timesteps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError


class StepContext:
    """Holds the step index, and the timestep, while a model runs. One object is shared by all quantizers of a model.

    Not a module: it is in no state dict, and a deepcopy of a model copies it once for all its quantizers.
    """

    def __init__(self) -> None:
        self._step: Tensor | None = None
        self._timestep: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether a step is set: whether the model runs inside `at`."""
        return self._step is not None

    @property
    def step(self) -> Tensor:
        """The current step index, int64, (1,) or (B,). RuntimeError outside `at`."""
        if self._step is None:
            raise RuntimeError(
                "The step index was read outside StepContext.at(...); "
                "run the model, and its backward under checkpointing, inside `with context.at(step):`."
            )
        return self._step

    @property
    def timestep(self) -> Tensor:
        """The current timestep of training, (1,) or (B,), int64, or floating-point where the network reads it so. RuntimeError outside `at`, or if that was given none."""
        if self._timestep is None:
            raise RuntimeError("The timestep was read where only a step was set; give StepContext.at both.")
        return self._timestep

    @contextmanager
    def at(self, step: Tensor, timestep: Tensor | None = None) -> Iterator[None]:
        """Set step, int64, and timestep, any number, both (1,) or (B,), in a scope; scopes nest. ValueError for others."""
        for value in (step, timestep):
            fits = value is None or value.dtype == torch.int64 or (value is timestep and value.is_floating_point())
            if value is not None and (value.ndim != 1 or not fits):
                raise ValueError(
                    f"StepContext.at was given {value.dtype} of shape {tuple(value.shape)}; pass int64 of shape (1,) or (B,)."
                )
        before = self._step, self._timestep
        self._step, self._timestep = step, timestep
        try:
            yield
        finally:
            self._step, self._timestep = before


class TimeGrid(nn.Module):
    """From timesteps to steps: each goes to the nearest timestep of the grid, the first one on a tie."""

    timesteps: Tensor

    def __init__(self, timesteps: Tensor) -> None:
        """timesteps: (S,), S >= 1, in any order; step k is the k-th of them."""
        super().__init__()
        if timesteps.ndim != 1 or timesteps.numel() == 0:
            raise ConfigError(
                f"TimeGrid was given timesteps of shape {tuple(timesteps.shape)}; pass a non-empty vector."
            )
        self.register_buffer("timesteps", timesteps.detach().clone())

    def forward(self, timestep: Tensor) -> Tensor:
        """timestep: () or (B,), in the units of the grid. Returns the steps, int64 of shape (1,) or (B,)."""
        distance = (timestep.reshape(-1, 1) - self.timesteps).abs()
        return distance.argmin(dim=1)
