"""The network whose latency is measured, as plain values that another process can make it from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.models import Adapter, Prediction, model_adapter, model_schedule, model_shapes, prediction_of

_SEED = 0


@dataclass(frozen=True)
class TimedNetwork:
    """model: its section, identified; timesteps: those that sampling visits, in order; folder: where subjects write; threads: of
    every runtime; sample_size: height and width of a sample, None for the model's own.
    """

    model: Mapping[str, Any]
    timesteps: tuple[int, ...]
    folder: Path
    threads: int
    sample_size: int | None = None

    def adapter(self) -> Adapter:
        """Load the network in full precision."""
        loaded = model_adapter(self.model)
        if self.sample_size is not None:
            loaded.model.register_to_config(sample_size=self.sample_size)  # type: ignore[operator]
        return loaded

    def shape(self) -> tuple[int, ...]:
        """The shape of one sample, (C, H, W)."""
        shape = model_shapes(self.model).sample_shape()
        return shape if self.sample_size is None else (shape[0], self.sample_size, self.sample_size)

    @property
    def prediction(self) -> Prediction:
        """What the network predicts."""
        return prediction_of(model_schedule(self.model))

    def sample(self, batch: int, shape: tuple[int, ...]) -> Tensor:
        """Noise (batch, *shape), always the same."""
        return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(_SEED))
