"""The UNet family with cross-attention: diffusers' UNet2DConditionModel (Stable Diffusion; LDMs with a class token)."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from dmq_cli.models import unet_parts
from dmq_cli.models.structure import condition

_TOKENS = "encoder_hidden_states"
_MASK = "encoder_attention_mask"
_LABELS = "class_labels"


class CondUNetAdapter(unet_parts.UNetParts):
    """Names the parts of a UNet2DConditionModel."""

    def __init__(self, model: UNet2DConditionModel, tokens: int = 1) -> None:
        super().__init__(model, tokens)
        cross = [model.get_submodule(layer.name) for layer in self.attentions() if layer.role == "attn.cross"]
        self._width = cross[0].to_k.in_features if cross else None
        self._needed = [*([_TOKENS] if cross else []), *unet_parts.needed_labels(model)]

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        """Call the network and return its prediction, see Adapter.

        cond: {"encoder_hidden_states": (B, N, D)}, optionally "encoder_attention_mask" (B, N), true where a token counts;
        "class_labels" (B,) int64 for a network with classes, None for one without any condition. Raises ModelError for
        another condition.
        """
        conditions = condition(self.model, cond, sample.shape[0], self._needed, [_MASK])
        tokens = conditions.pop(_TOKENS, None)
        estimate: Tensor = self.model(sample, timestep, tokens, return_dict=False, **conditions)[0]
        return estimate

    def blank_cond(self, num: int) -> dict[str, Tensor] | None:
        """See Adapter."""
        blank = {_LABELS: torch.zeros(num, dtype=torch.int64)}
        if self._width is not None:
            blank[_TOKENS] = torch.zeros(num, self.tokens, self._width)
        return {name: blank[name] for name in self._needed} or None

    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        """The projections of all residual blocks; of what `cond` has, only class labels enter."""
        needed = unet_parts.needed_labels(self.model)
        labels = condition(self.model, cond, len(timestep), needed, [_TOKENS, _MASK]).get(_LABELS)
        return unet_parts.time_projections(self.model, timestep, labels)
