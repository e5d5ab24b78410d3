"""The data of the embedded models: what a training sees and what is kept away from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from dmq_cli.zoo.digits import digit_images, split
from dmq_cli.zoo.fashion import fashion_images

DataName = Literal["digits", "fashion"]
Labelled = tuple[Tensor, Tensor]
"""Images (N, 1, size, size) uint8 and labels (N,) int64."""


def image_parts(settings: Mapping[str, Any], size: int) -> tuple[Labelled, Labelled]:
    """The images to train on and those kept away, as the settings of a training say.

    settings: `data` (digits where there is none). Of digits `held_out` and `seed` choose what is kept away; of fashion it is the test
    part, 32x32 whatever `size` is, and `path` is the folder of the files. Raises as `fashion_images`.
    """
    if settings.get("data", "digits") == "fashion":
        return fashion_images("train", settings.get("path")), fashion_images("test", settings.get("path"))
    images, labels = digit_images(size)
    train, held_out = split(len(images), settings["held_out"], settings["seed"])
    return (images[train], labels[train]), (images[held_out], labels[held_out])


def recorded(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training for its card: without the place of the data on this machine, `data` where it is not the digits."""
    usual = {"path": settings.get("path"), "data": "digits"}
    return {name: value for name, value in settings.items() if name not in usual or value != usual[name]}
