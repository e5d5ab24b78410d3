"""Builds the networks of a recipe without numbers, and says where their modules are in the original layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from dmq_cli.models.conditions import ClassEmbedding
from dmq_cli.models.families import OWN
from dmq_cli.models.importers.ddim import ddim_unet
from dmq_cli.models.importers.first_stage import first_stage
from dmq_cli.models.importers.keymap import Modules, Source
from dmq_cli.models.importers.ldm import ldm_unet
from dmq_cli.models.importers.recipes import Network
from dmq_cli.models.texts import require_transformers

TEXTS = "CLIPTextModel"  # the one class that is not of diffusers or dmq
_CLASSES: dict[str, Any] = {
    **{family.name: family.kind for family in OWN},
    "VQModel": VQModel,
    "AutoencoderKL": AutoencoderKL,
    "ClassEmbedding": ClassEmbedding,
}


def create(network: Network) -> Any:
    """The network with the numbers its class starts with. Raises ConfigError for a text encoder without transformers."""
    if network.kind == TEXTS:
        package = require_transformers()
        return package.CLIPTextModel(package.CLIPTextConfig(**network.config))
    return _CLASSES[network.kind](**network.config)


def build(network: Network) -> Any:
    """The network on the meta device: names, shapes and configuration, no numbers."""
    with torch.device("meta"):
        return create(network)


def target_tensors(network: Network) -> dict[str, Tensor]:
    """The tensors that the network's file in a diffusers folder needs, on the meta device."""
    tensors: dict[str, Tensor] = build(network).state_dict()
    return published_names(tensors) if network.kind == TEXTS else tensors


def published_names(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a text encoder under the names of published files: transformers 5.6 left out their prefix, but reads it."""
    return {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}


def modules(network: Network) -> Modules:
    """Map each of the network's modules to its name in the checkpoint, behind the network's prefix."""
    if network.kind == TEXTS:
        return {name: Source(name) for name in (tensor.rpartition(".")[0] for tensor in target_tensors(network))}
    if network.kind == "ClassEmbedding":
        return {"embedding": Source("embedding")}
    if network.kind in ("VQModel", "AutoencoderKL"):
        return first_stage(network.config)
    return ldm_unet(network.config) if network.prefix else ddim_unet(network.config)
