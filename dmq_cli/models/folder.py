"""The network and the noise schedule of a diffusers folder, and the hash of its bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from diffusers import DiTTransformer2DModel, Transformer2DModel, UNet2DConditionModel, UNet2DModel
from torch import nn

from dmq_cli.errors import ModelError
from dmq_cli.models.adapter import Adapter
from dmq_cli.models.cond_unet import CondUNetAdapter
from dmq_cli.models.configs import built, component_config
from dmq_cli.models.dit import DiTAdapter
from dmq_cli.models.files import class_name, read_json, schedule_file, sha256_of
from dmq_cli.models.heads import HeadsUNet2DModel
from dmq_cli.models.load import load_network
from dmq_cli.models.parts import FAMILIES, network_folder
from dmq_cli.models.schedule import checked, in_pipeline
from dmq_cli.models.unet import UNetAdapter
from dmq_cli.models.weights import weight_files
from dmq_cli.store.digest import digest

_FAMILIES: dict[Any, Callable[[Any, int], Adapter]] = {
    UNet2DModel: lambda model, _: UNetAdapter(model),
    HeadsUNet2DModel: lambda model, _: UNetAdapter(model),
    UNet2DConditionModel: CondUNetAdapter,
    DiTTransformer2DModel: lambda model, _: DiTAdapter(model),
}


def folder_sha256(path: Path) -> str:
    """Hash of the network's configuration, weights and noise schedule: the identity of a model, wherever it lies.

    The weights are the files that load_adapter reads: one, or an index and all its shards.
    """
    folder = network_folder(path)
    files = [folder / "config.json", *weight_files(folder), schedule_file(path)]
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
    return adapted(load_network(network_kind(folder), folder), _tokens(path))


def shapes_of_folder(path: Path) -> Adapter:
    """The network of a folder's config.json on the meta device: shapes without numbers; weights need not be there.

    Raises ModelError for an unknown family and for a configuration of which diffusers makes no network.
    """
    folder = network_folder(path)
    return adapted(built(network_kind(folder), folder, component_config(folder), meta=True), _tokens(path))


def network_kind(folder: Path) -> Any:
    """diffusers' class of the network in this folder. Raises ModelError for one that dmq does not know."""
    config = read_json(folder / "config.json")
    name = config.get("_class_name")
    if name == Transformer2DModel.__name__ and config.get("norm_type") == "ada_norm_zero":
        return DiTTransformer2DModel  # what published DiTs call themselves
    kind = next((kind for kind in _FAMILIES if kind.__name__ == name), None)
    return kind or _unknown(folder, class_name(config))


def adapted(model: nn.Module, tokens: int = 1) -> Adapter:
    """The adapter of a network of a known family, in eval mode, without gradients. tokens: of its condition."""
    return _FAMILIES[type(model)](model.eval().requires_grad_(False), tokens)


def _unknown(folder: Path, name: str) -> NoReturn:
    raise ModelError(
        f"The model in {folder} is a {name or 'network that its config.json does not name'}, which dmq does not know; families"
        f" known here: {', '.join(FAMILIES)}."
    )


def _tokens(path: Path) -> int:
    """How many tokens a pipeline's text encoder gives; 1, the token of a class, where there is none. Raises ModelError."""
    file = path / "text_encoder" / "config.json"
    found = read_json(file).get("max_position_embeddings", 1) if file.is_file() else 1
    if type(found) is not int or not 0 < found <= 1 << 16:
        raise ModelError(
            f"The file {file} has max_position_embeddings={found!r}, which is no length of texts; copy it again."
        )
    return found
