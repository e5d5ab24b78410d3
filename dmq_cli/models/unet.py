"""The UNet family without cross-attention, in pixels or latents: diffusers' UNet2DModel."""

from __future__ import annotations

import torch
from torch import Tensor

from dmq_cli.models import unet_parts
from dmq_cli.models.structure import condition


class UNetAdapter(unet_parts.UNetParts):
    """Names the parts of a UNet2DModel."""

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        """Call the network and return its prediction. cond: {"class_labels": (B,) int64} for a network with classes, else None.

        Raises ModelError for another condition.
        """
        estimate: Tensor = self.model(sample, timestep, self._labels(cond, sample.shape[0]), return_dict=False)[0]
        return estimate

    def blank_cond(self, num: int) -> dict[str, Tensor] | None:
        """See Adapter."""
        needed = unet_parts.needed_labels(self.model)
        return {name: torch.zeros(num, dtype=torch.int64) for name in needed} or None

    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        """The projections of all residual blocks, as one forward pass computes them."""
        return unet_parts.time_projections(self.model, timestep, self._labels(cond, len(timestep)))

    def _labels(self, cond: object, num: int) -> Tensor | None:
        return condition(self.model, cond, num, unet_parts.needed_labels(self.model)).get("class_labels")
