"""Reads the weights of one network of a diffusers folder, strictly. Never downloads, never unpickles."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.errors import ModelError
from dmq_cli.models.configs import built, component_config
from dmq_cli.models.weights import read_weights, weight_shapes
from dmq_cli.store.tensors import check_finite

_FORMER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # names in older attention blocks


def load_network(kind: Any, folder: Path) -> nn.Module:
    """A network of the diffusers class `kind`, in eval mode, float32, without gradients.

    Raises MissingWeightsError, ModelError for weights that do not fit its config.json or are no floating-point numbers,
    NumericsError for NaN in them. Shapes are compared before anything is allocated.
    """
    stored, config = weight_shapes(folder), component_config(folder)
    shapes = built(kind, folder, config, meta=True)
    names = _current_names(shapes, stored)
    check_shapes(
        f"The checkpoint in {folder}",
        {name: tuple(tensor.shape) for name, tensor in shapes.state_dict().items()},
        {names[name]: shape for name, shape in stored.items()},
    )
    model = built(kind, folder, config)
    for tensors in read_weights(folder):
        _fill(model, {names[name]: tensor for name, tensor in tensors.items()})
    check_finite(dict(model.state_dict()), f"The weights in {folder}")
    return model.eval().requires_grad_(False)


@torch.no_grad()
def _fill(model: nn.Module, tensors: dict[str, Tensor]) -> None:
    parameters = model.state_dict()
    for name, tensor in tensors.items():
        parameters[name].copy_(tensor)


def check_shapes(what: str, expected: dict[str, tuple[int, ...]], stored: dict[str, tuple[int, ...]]) -> None:
    """Raise ModelError unless there are the same names with the same shapes. what: the sentence's start."""
    _refuse(what, "the wrong shape for", [n for n, shape in stored.items() if expected.get(n, shape) != shape])
    _refuse(what, "no values for", [name for name in expected if name not in stored])
    _refuse(what, "values that do not belong to", [name for name in stored if name not in expected])


def _current_names(model: nn.Module, stored_names: Iterable[str]) -> dict[str, str]:
    """Map the names of tensors in files, where attention blocks may have former names, to those of the model."""
    old = tuple(name for name, module in model.named_modules() if getattr(module, "_from_deprecated_attn_block", False))
    names = {}
    for name in stored_names:
        module, _, leaf = name.rpartition(".")
        block, _, layer = module.rpartition(".")
        names[name] = f"{block}.{_FORMER[layer]}.{leaf}" if block in old and layer in _FORMER else name
    return names


def _refuse(what: str, how: str, names: list[str]) -> None:
    if names:
        raise ModelError(
            f"{what} has {how} {len(names)} tensors of the network in its config.json (first: {names[0]}); use the config.json"
            " that belongs to these weights."
        )
