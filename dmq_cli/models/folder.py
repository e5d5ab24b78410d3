"""The network and the noise schedule of a diffusers folder, and the hash of its bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from diffusers import DiTTransformer2DModel, Transformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from dmq_cli.errors import ModelError
from dmq_cli.models.adapter import Adapter
from dmq_cli.models.cond_unet import CondUNetAdapter
from dmq_cli.models.dit import DiTAdapter
from dmq_cli.models.files import is_transformer, network_folder, read_json, require_weights, schedule_file, sha256_of
from dmq_cli.models.heads import HeadsUNet2DModel
from dmq_cli.models.load import load_network
from dmq_cli.models.schedule import checked, in_pipeline
from dmq_cli.models.unet import UNetAdapter
from dmq_cli.store.digest import digest

_FAMILIES: dict[Any, Callable[[Any, int], Adapter]] = {
    UNet2DModel: lambda model, _: UNetAdapter(model),
    HeadsUNet2DModel: lambda model, _: UNetAdapter(model),
    UNet2DConditionModel: CondUNetAdapter,
    DiTTransformer2DModel: lambda model, _: DiTAdapter(model),
}
# Published DiTs call themselves Transformer2DModel; diffusers makes them what they are while it loads them.
_LOADED = {kind.__name__: kind for kind in (*_FAMILIES, Transformer2DModel)}


def folder_sha256(path: Path) -> str:
    """Hash of the network's configuration, weights and noise schedule: the identity of a model, wherever it lies."""
    folder = network_folder(path)
    files = [folder / "config.json", require_weights(folder), schedule_file(path)]
    return digest([sha256_of(file) for file in files])


def load_schedule(path: Path) -> dict[str, Any]:
    """The noise schedule the model was trained with, as diffusers' scheduler configuration; see `checked`, `in_pipeline`."""
    file, index = schedule_file(path), path / "model_index.json"
    found = checked(read_json(file), file)
    return in_pipeline(found, read_json(index).get("_class_name")) if index.is_file() else found


def load_adapter(path: Path) -> Adapter:
    """Load a network in eval mode, float32, without gradients.

    Raises ModelError for an unknown family, missing or misshapen weights, NumericsError for NaN or infinity in them.
    """
    folder = network_folder(path)
    model = load_network(_kind(folder, read_json(folder / "config.json")), folder)
    if type(model) not in _FAMILIES:
        _unknown(folder, type(model).__name__)
    return adapted(model, _tokens(path))


def shapes_of_folder(path: Path) -> Adapter:
    """The network of a folder's config.json on the meta device: shapes without numbers; weights need not be there.

    Raises ModelError for an unknown family and for a configuration of which diffusers makes no network.
    """
    folder = network_folder(path)
    config = read_json(folder / "config.json")
    kind = DiTTransformer2DModel if is_transformer(config) else _kind(folder, config)
    if kind not in _FAMILIES:
        _unknown(folder, kind.__name__)
    try:
        with torch.device("meta"):
            model = kind.from_config(config)
    except (TypeError, ValueError, AttributeError) as error:
        first = " ".join(str(error).split()).rstrip(".")
        raise ModelError(
            f"The file {folder / 'config.json'} describes no network ({first}); copy the folder again."
        ) from error
    return adapted(model, _tokens(path))


def _kind(folder: Path, config: Mapping[str, Any]) -> Any:
    """diffusers' class of a network. Raises ModelError for one that dmq does not know."""
    name = config.get("_class_name")
    if not isinstance(name, str) or name not in _LOADED:
        _unknown(folder, name)
    return _LOADED[name]


def adapted(model: nn.Module, tokens: int = 1) -> Adapter:
    """The adapter of a network of a known family, in eval mode, without gradients. tokens: of its condition."""
    return _FAMILIES[type(model)](model.eval().requires_grad_(False), tokens)


def _unknown(folder: Path, name: object) -> NoReturn:
    known = ", ".join(kind.__name__ for kind in _FAMILIES)
    raise ModelError(f"The model in {folder} is a {name}, which dmq does not know; families known here: {known}.")


def _tokens(path: Path) -> int:
    """How many tokens a pipeline's text encoder gives; 1, the token of a class, where there is none."""
    file = path / "text_encoder" / "config.json"
    return int(read_json(file).get("max_position_embeddings", 1)) if file.is_file() else 1
