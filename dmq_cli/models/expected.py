"""Check that a folder holds the model it was given as: what conf/model says against what the folder has."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import MissingWeightsError, ModelError
from dmq_cli.models.files import read_json
from dmq_cli.models.first_stage import scaling_factor
from dmq_cli.models.folder import network_family
from dmq_cli.models.parts import check_parts, first_stage_folder, network_folder
from dmq_cli.models.weights import weight_files, weight_shapes
from dmq_cli.obtain import missing
from dmq_cli.paths import resolve


def check_expected(model: Mapping[str, Any]) -> None:
    """Compare a model's folder with the parts it declares, and with expects, parameters, latent and scaling_factor, where
    its configuration has them.

    Reads configurations and the heads of safetensors files only. Raises MissingWeightsError for weights that are not there,
    with how to get them, and ModelError for a network of no known family, another model, a missing part and another scale
    of its latents.
    """
    if sentence := missing(model):
        raise MissingWeightsError(sentence)
    path = resolve(model["path"])
    network = network_folder(path)
    network_family(network)
    check_parts(path)
    weight_files(network)
    start = f"The folder {path} was given as {model['name']}, but"
    _check_network(network, model, start)
    if model.get("latent"):
        _check_first_stage(path, model, start)


def _check_network(network: Path, model: Mapping[str, Any], start: str) -> None:
    config = read_json(network / "config.json")
    for key, value in model.get("expects", {}).items():
        if config.get(key) != value:
            raise ModelError(
                f"{start} {key} of its network is {json.dumps(config.get(key))} and not {json.dumps(value)}; give the folder of"
                f" {model['name']}, or choose the model that it is."
            )
    if (parameters := model.get("parameters")) is not None and (count := _parameters(network)) != parameters:
        raise ModelError(
            f"{start} its network has {count:,} parameters and not {parameters:,}; give the folder of {model['name']},"
            " or choose the model that it is."
        )


def _parameters(folder: Path) -> int:
    """Count the parameters from the headers of the weights' files. Raises ModelError."""
    return sum(math.prod(shape) for shape in weight_shapes(folder).values())


def _check_first_stage(path: Path, model: Mapping[str, Any], start: str) -> None:
    folder = first_stage_folder(path)
    if folder is None:
        raise ModelError(
            f"{start} its first stage is missing: there is neither vae/config.json nor vqvae/config.json; put that part of the"
            " pipeline beside its network."
        )
    weight_files(folder)
    expected, scale = model.get("scaling_factor"), scaling_factor(folder)
    if expected is not None and scale != expected:
        raise ModelError(
            f"{start} its latents are scaled by {scale} and not by {expected}; write that scaling_factor into"
            f" {folder / 'config.json'}, or use the first stage that belongs to this model."
        )
