"""Shared by diffusers' UNets, with and without cross-attention: names, time embedding and skip connections."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor

from dmq_cli.models.role_patterns import UNET
from dmq_cli.models.structure import NamedParts, sample_shape


class UNetParts(NamedParts):
    """Base of the adapters of both kinds of UNet, which differ in the condition that a call takes."""

    patterns = UNET
    blocks = (ResnetBlock2D, BasicTransformerBlock, Attention)

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        """See Adapter."""
        return skip_splits(self.model)

    def sample_shape(self) -> tuple[int, ...]:
        """See Adapter."""
        return sample_shape(self.model)


def needed_labels(model: Any) -> list[str]:
    """["class_labels"] if the time embedding is added to that of a class."""
    return ["class_labels"] if model.class_embedding is not None else []


def time_projections(model: Any, timestep: Tensor, labels: Tensor | None) -> dict[str, Tensor]:
    """Compute the time projection of every residual block, by layer name: {name: (B, width)}.

    timestep: (B,); labels: (B,), for a network with classes.
    """
    embedding = _embedding(model, timestep, labels)
    blocks = ((name, module) for name, module in model.named_modules() if isinstance(module, ResnetBlock2D))
    return {
        f"{name}.time_emb_proj": block.time_emb_proj(
            embedding if block.skip_time_act else block.nonlinearity(embedding)
        )
        for name, block in blocks
        if block.time_emb_proj is not None
    }


def _embedding(model: Any, timestep: Tensor, labels: Tensor | None) -> Tensor:
    """Embed timestep and class as the network's own forward pass does; (B, width)."""
    dtype = next(model.parameters()).dtype
    embedding: Tensor = model.time_embedding(model.time_proj(timestep).to(dtype))
    if labels is not None:
        class_embedding = model.class_embedding(labels).to(dtype)
        joined = getattr(model.config, "class_embeddings_concat", False)
        embedding = torch.cat([embedding, class_embedding], dim=-1) if joined else embedding + class_embedding
    activation = getattr(model, "time_embed_act", None)
    return embedding if activation is None else activation(embedding)


def skip_splits(model: Any) -> dict[str, tuple[int, int]]:
    """Channels of the two tensors that each up-path shortcut reads, from the order in which skips are pushed."""
    skips = [model.conv_in.out_channels]
    for block in model.down_blocks:
        width = block.resnets[-1].out_channels
        skips += [resnet.out_channels for resnet in block.resnets] + ([width] if block.downsamplers else [])
    splits = {}
    for index, block in enumerate(model.up_blocks):
        for number, resnet in enumerate(block.resnets):
            skip = skips.pop()
            if resnet.conv_shortcut is not None:
                name = f"up_blocks.{index}.resnets.{number}.conv_shortcut"
                splits[name] = (resnet.conv_shortcut.in_channels - skip, skip)
    return splits
