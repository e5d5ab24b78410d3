"""Diffusion transformers with adaptive norms: diffusers' DiTTransformer2DModel.

Peebles and Xie: Scalable Diffusion Models with Transformers, ICCV 2023 (arXiv:2212.09748).
"""

from __future__ import annotations

import torch
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models.role_patterns import DIT
from dmq_cli.models.structure import NamedParts, condition, sample_shape

_LABELS = "class_labels"


class DiTAdapter(NamedParts):
    """Names the parts of a DiTTransformer2DModel."""

    patterns = DIT
    blocks = (BasicTransformerBlock,)

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        """Call the network and return its prediction, without the variances that it may have learned to estimate beside it.

        cond: {"class_labels": (B,) int64}; the number after the last class means "no class". Raises ModelError for another.
        """
        labels = condition(self.model, cond, sample.shape[0], [_LABELS])[_LABELS]
        timestep = timestep.reshape(-1).expand(sample.shape[0])  # the embedders take no scalars
        estimate: Tensor = self.model(sample, timestep, labels, return_dict=False)[0]
        return estimate[:, : self.model.config.in_channels]

    def blank_cond(self, num: int) -> dict[str, Tensor] | None:
        """See Adapter."""
        return {_LABELS: torch.zeros(num, dtype=torch.int64)}

    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        """The modulations of all norms: functions of timestep and class.

        cond: as in predict. Raises ModelError without it: from timesteps alone there is no modulation.
        """
        if cond is None:
            raise ModelError(
                "The modulations of a DiTTransformer2DModel depend on the class as well as on the timestep, so they cannot learn"
                " from timesteps alone; use recon.temporal=block."
            )
        labels = condition(self.model, cond, len(timestep), [_LABELS])[_LABELS]
        dtype = next(self.model.parameters()).dtype
        norms = {f"transformer_blocks.{i}.norm1": b.norm1 for i, b in enumerate(self.model.transformer_blocks)}
        inner = {name: norm.silu(norm.emb(timestep, labels, hidden_dtype=dtype)) for name, norm in norms.items()}
        modulations = {f"{name}.linear": norm.linear(inner[name]) for name, norm in norms.items()}
        return modulations | {"proj_out_1": self.model.proj_out_1(inner["transformer_blocks.0.norm1"])}

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """There are no skip connections."""
        return {}

    def sample_shape(self) -> tuple[int, ...]:
        """See Adapter."""
        return sample_shape(self.model)
