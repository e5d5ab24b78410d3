"""At full size, on the meta device: parameter counts, and every original name and shape goes to exactly one place."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import nn

from dmq_cli.models.conditions import ClassEmbedding
from dmq_cli.models.importers.keymap import collect
from dmq_cli.models.importers.networks import build, modules
from dmq_cli.models.importers.recipes import RECIPES
from tests.models.importers.original_ddim import Model
from tests.models.importers.original_first_stage import FirstStage
from tests.models.importers.original_ldm import Shape, UNetModel

BEDROOM = Shape(224, (1, 2, 3, 4), frozenset({1, 2, 3}), size=32)
CHURCH = Shape(192, (1, 2, 2, 4, 4), frozenset({0, 1, 2, 3}), latent=4, heads=8, scale_shift=True, updown=True)
IMAGENET = Shape(192, (1, 2, 3, 5), frozenset({1, 2, 3}), heads=1, context=512)


def originals(recipe: str) -> list[nn.Module]:
    """The networks of a published checkpoint, in the recipe's order, without numbers."""
    with torch.device("meta"):
        if recipe == "ddim_cifar10":
            return [Model(128, (1, 2, 2, 2), {1})]
        if recipe.startswith("ddpm"):
            return [Model(128, (1, 1, 2, 2, 4, 4), {4})]
        if recipe == "ldm8_church":
            return [UNetModel(CHURCH), FirstStage(128, (1, 2, 4, 4), 4, None)]
        vq = FirstStage(128, (1, 2, 4), 3, 8192)
        if recipe == "ldm4_imagenet":
            return [UNetModel(IMAGENET), vq, ClassEmbedding(1001, 512)]
        return [UNetModel(BEDROOM), vq]


COUNTS = {
    "ddim_cifar10": [35_746_307],
    "ddpm_church256": [113_673_219],
    "ddpm_bedroom256": [113_673_219],
    "ldm4_bedroom": [274_056_163, 55_322_782],
    "ldm4_celebahq": [274_056_163, 55_322_782],
    "ldm4_ffhq": [274_056_163, 55_322_782],
    "ldm4_church": [274_056_163, 55_322_782],
    "ldm8_church": [294_966_916, 83_653_863],
    "ldm4_imagenet": [400_920_579, 55_322_782, 512_512],
}


def size(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("recipe", RECIPES)
def test_parameter_counts(recipe: str) -> None:
    assert [size(build(network)) for network in RECIPES[recipe].networks] == COUNTS[recipe]
    assert [size(network) for network in originals(recipe)] == COUNTS[recipe]


@pytest.mark.parametrize(
    "recipe", [name for name in RECIPES if name not in ("ldm4_celebahq", "ldm4_ffhq", "ldm4_church")]
)
def test_every_name_has_one_place(recipe: str) -> None:
    for network, original in zip(RECIPES[recipe].networks, originals(recipe), strict=True):
        target = build(network).state_dict()
        found = collect(target, modules(network), original.state_dict(), "The test")
        assert {name: tensor.shape for name, tensor in found.items()} == {n: t.shape for n, t in target.items()}
        parts = defaultdict(list)
        for name in target:
            module, _, leaf = name.rpartition(".")
            source = modules(network)[module]
            parts[f"{source.module}.{leaf}"].append(source.part)
        assert set(parts) == set(original.state_dict())
        assert all(used == ([0, 1, 2] if ".qkv." in name else [None]) for name, used in parts.items())
