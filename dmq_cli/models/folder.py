"""The network and the noise schedule of a diffusers folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from dmq_cli.errors import ModelError
from dmq_cli.models.adapter import Adapter
from dmq_cli.models.configs import built, component_config
from dmq_cli.models.families import Family, family_of, family_of_class, names
from dmq_cli.models.files import class_name, read_json, schedule_file
from dmq_cli.models.load import load_network
from dmq_cli.models.parts import network_folder
from dmq_cli.models.prediction import prediction_of
from dmq_cli.models.schedule import checked, in_pipeline
from dmq_cli.obtain import find_network


def load_schedule(path: Path) -> dict[str, Any]:
    """The noise schedule the model was trained with, as diffusers' scheduler configuration; see `checked`, `in_pipeline`."""
    file, index = schedule_file(path), path / "model_index.json"
    family = _family_at(path)
    schedule = checked(read_json(file), file, *([family.process] if family else []))
    _check_prediction(schedule, family, file)
    return in_pipeline(schedule, read_json(index).get("_class_name")) if index.is_file() else schedule


def load_adapter(path: Path) -> Adapter:
    """Load a network in eval mode, float32, without gradients, with what it predicts.

    Raises ModelError for an unknown family, missing or misshapen weights, NumericsError for NaN or infinity in them, and
    what load_schedule raises.
    """
    folder = network_folder(path)
    loaded = adapted(load_network(network_family(folder).kind, folder), tokens_of(path))
    loaded.prediction = prediction_of(load_schedule(path))
    return loaded


def shapes_of_folder(path: Path) -> Adapter:
    """The network of a folder's config.json on the meta device: shapes without numbers; weights need not be there.

    Raises ModelError for an unknown family and for a configuration of which diffusers makes no network.
    """
    folder = network_folder(path)
    return adapted(
        built(network_family(folder).kind, folder, component_config(folder, packed=True), meta=True), tokens_of(path)
    )


def network_family(folder: Path) -> Family:
    """The family of the network in this folder. Raises ModelError for one that dmq does not know."""
    config = read_json(folder / "config.json")
    if (family := family_of(config)) is not None:
        return family
    raise ModelError(
        f"The model in {folder} is a {class_name(config) or 'network that its config.json does not name'}, which dmq does not"
        f" know; families known here: {names()}."
    )


def adapted(model: nn.Module, tokens: int = 1) -> Adapter:
    """The adapter of a network, in eval mode, without gradients. tokens: of its condition.

    Raises ModelError for a network of no known family.
    """
    family = family_of_class(type(model))
    if family is None:
        raise ModelError(
            f"A {type(model).__name__} was given as a network, which dmq does not know; families known here: {names()}."
        )
    return family.adapter(model.eval().requires_grad_(False), tokens)


def _family_at(path: Path) -> Family | None:
    """The family of the model at `path`; None where there is no network or one that dmq does not know."""
    folder = find_network(path)
    return None if folder is None else family_of(read_json(folder / "config.json"))


def _check_prediction(schedule: Mapping[str, Any], family: Family | None, file: Path) -> None:
    kind = schedule.get("prediction_type", "epsilon")
    if family is not None and kind not in family.predictions:
        raise ModelError(
            f"The file {file} says prediction_type={kind}, but a {family.name} predicts {' or '.join(family.predictions)}; give the"
            " scheduler that belongs to the network."
        )


def tokens_of(path: Path) -> int:
    """The number of tokens of a pipeline's text encoder; 1, the token of a class, where there is none. Raises ModelError."""
    file = path / "text_encoder" / "config.json"
    length = read_json(file).get("max_position_embeddings", 1) if file.is_file() else 1
    if type(length) is not int or not 0 < length <= 1 << 16:
        raise ModelError(
            f"The file {file} has max_position_embeddings={length!r}, which is no length of texts; copy it again."
        )
    return length
