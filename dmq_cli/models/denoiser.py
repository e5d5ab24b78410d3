"""The one seam: everything that estimates noise is a Denoiser. Samplers, corrections and metrics know nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

import torch
from torch import Tensor

from dmq_cli.models.adapter import Adapter
from dmq_cli.ops import CPU

Cond = Mapping[str, Tensor] | None
"""The condition of a network besides sample and timestep: tensors by name, a row for each sample; None: no condition."""

Call = tuple[Tensor, Tensor] | tuple[Tensor, Tensor, Cond]
"""The arguments of a Denoiser: a batch of inputs of the network."""


def cond_rows(cond: Cond, rows: Tensor | slice) -> Cond:
    """Select rows of a condition; None stays None."""
    return cond and {name: value[rows] for name, value in cond.items()}


class Denoiser(Protocol):
    """Estimates the noise in a sample. It may have a `device`, see `home`."""

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """sample (B, C, ...), timestep () or (B,), of training.

        Returns the noise estimate (B, C, ...), whatever the network itself predicts, on the sample's device and of its dtype.
        """
        ...


def home(denoiser: Denoiser) -> torch.device:
    """The device that a Denoiser computes on, where samples are best kept: its `device`, or the CPU if it does not say."""
    device: torch.device = getattr(denoiser, "device", CPU)
    return device


class ModelDenoiser:
    """The network as it is: the full-precision twin of everything that is compared with it."""

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = adapter

    @property
    def device(self) -> torch.device:
        """See `home`."""
        return device_of(self.adapter)

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser."""
        return predict(self.adapter, sample, timestep, cond)


def predict(adapter: Adapter, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
    """See Denoiser: the sample goes to the network's device and dtype, the output back to the sample's, and there becomes noise."""
    reference = next(adapter.model.parameters())
    output = adapter.predict(sample.to(reference), timestep.to(reference.device), cond).to(sample)
    return adapter.prediction.noise(output, sample, timestep)


class InBatches:
    """A Denoiser that takes at most `size` samples at once, for callers that need all of them at every step."""

    def __init__(self, denoiser: Denoiser, size: int) -> None:
        self.denoiser, self.size = denoiser, size

    @property
    def device(self) -> torch.device:
        """See `home`."""
        return home(self.denoiser)

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser."""
        estimates = []
        for start in range(0, len(sample), self.size):
            rows = slice(start, start + self.size)
            times = timestep if timestep.numel() == 1 else timestep[rows]
            estimates.append(self.denoiser(sample[rows], times, cond_rows(cast(Cond, cond), rows)))
        return torch.cat(estimates)


def device_of(adapter: Adapter) -> torch.device:
    """The device of the network's parameters."""
    return next(adapter.model.parameters()).device
