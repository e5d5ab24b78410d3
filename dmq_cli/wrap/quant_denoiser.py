"""The quantized network as a Denoiser."""

from __future__ import annotations

import torch
from torch import Tensor

from dmq_cli.models import device_of, predict
from dmq_cli.wrap.attach import Attached


class QuantDenoiser:
    """Looks the timestep up in the time grid, opens the step scope for the quantizers and runs the network."""

    def __init__(self, attached: Attached) -> None:
        self.attached = attached

    @property
    def device(self) -> torch.device:
        """See `models.home`."""
        return device_of(self.attached.adapter)

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        """See Denoiser."""
        timestep = timestep.to(self.device)
        with self.attached.at(timestep):
            return predict(self.attached.adapter, sample, timestep, cond)
