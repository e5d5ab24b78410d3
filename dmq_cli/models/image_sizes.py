"""Compute the shape of a model's images from configurations alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ModelError
from dmq_cli.models.files import read_json
from dmq_cli.models.origin import is_random, model_shapes
from dmq_cli.models.parts import first_stage_folder
from dmq_cli.models.random_weights import random_first_stage_config
from dmq_cli.paths import resolve

_CHANNELS, _BLOCKS = 3, (64,)  # of diffusers' autoencoders, where config.json does not say


def image_shape(model: Mapping[str, Any]) -> tuple[int, int, int]:
    """(H, W, C) of the images that a model draws: of its samples, or of what its first stage makes of them.

    Both kinds of first stages double the sides in every block but one. Raises as model_shapes, and
    ModelError for samples that are no images.
    """
    shape = model_shapes(model).sample_shape()
    if len(shape) != 3:
        raise ModelError(
            f"The model {model['name']} was to make images, but makes samples of the shape {'x'.join(map(str, shape))}, and an image has"
            " channels, height and width; use a model of images."
        )
    channels, height, width = shape
    config = _first_stage(model)
    if config is None:
        return height, width, channels
    scale = 2 ** (len(config.get("block_out_channels", _BLOCKS)) - 1)
    return height * scale, width * scale, int(config.get("out_channels", _CHANNELS))


def sample_bytes(model: Mapping[str, Any]) -> int:
    """The size of a stored sample in bytes: one for each value of an image, four for each value of any other sample."""
    shape = model_shapes(model).sample_shape()
    return math.prod(image_shape(model)) if len(shape) == 3 else 4 * math.prod(shape)


def _first_stage(model: Mapping[str, Any]) -> dict[str, Any] | None:
    if is_random(model):
        return random_first_stage_config(model["name"])
    folder = first_stage_folder(resolve(model["path"]))
    return None if folder is None else read_json(folder / "config.json")
