"""At full size, on the meta device: parameter counts, and every original name and shape goes to exactly one place."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.errors import ModelError
from dmq_cli.models.conditions import ClassEmbedding
from dmq_cli.models.importers.keymap import collect
from dmq_cli.models.importers.networks import build, modules, target_tensors
from dmq_cli.models.importers.recipes import RECIPES
from dmq_cli.models.importers.shares import share
from tests.models.importers.miniatures import single_file
from tests.models.importers.original_clip import TextModel
from tests.models.importers.original_ddim import Model
from tests.models.importers.original_first_stage import FirstStage
from tests.models.importers.original_ldm import Shape, UNetModel

BEDROOM = Shape(224, (1, 2, 3, 4), frozenset({1, 2, 3}), size=32)
CHURCH = Shape(192, (1, 2, 2, 4, 4), frozenset({0, 1, 2, 3}), latent=4, heads=8, scale_shift=True, updown=True)
IMAGENET = Shape(192, (1, 2, 3, 5), frozenset({1, 2, 3}), heads=1, context=512)
STABLE = Shape(320, (1, 2, 4, 4), frozenset({0, 1, 2}), latent=4, heads=8, context=768)


def originals(recipe: str) -> list[nn.Module]:
    """The networks of a published checkpoint, in the recipe's order, without numbers."""
    with torch.device("meta"):
        if recipe == "ddim_cifar10":
            return [Model(128, (1, 2, 2, 2), {1})]
        if recipe.startswith("ddpm"):
            return [Model(128, (1, 1, 2, 2, 4, 4), {4})]
        if recipe == "ldm8_church":
            return [UNetModel(CHURCH), FirstStage(128, (1, 2, 4, 4), 4, None)]
        if recipe == "sd14":
            return [UNetModel(STABLE), FirstStage(128, (1, 2, 4, 4), 4, None), TextModel(49408, 768, 12, 12, 77)]
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
    "sd14": [859_520_964, 83_653_863, 123_060_480],
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
        target, places = target_tensors(network), modules(network)
        tensors = {name: tensor for name, tensor in original.state_dict().items() if not name.endswith("position_ids")}
        collected = collect(target, places, tensors, "The test")
        assert {name: tensor.shape for name, tensor in collected.items()} == {n: t.shape for n, t in target.items()}
        parts = defaultdict(list)
        for name in target:
            module, _, leaf = name.rpartition(".")
            source = places[module]
            parts[f"{source.module}.{leaf}"].append(source.part)
        assert set(parts) == set(tensors)
        assert all(used == ([0, 1, 2] if ".qkv." in name else [None]) for name, used in parts.items())


def whole() -> dict[str, Tensor]:
    """sd-v1-4.ckpt without numbers, except those of its tables."""
    prefixes = ("model.diffusion_model.", "first_stage_model.", "cond_stage_model.transformer.")
    return single_file(dict(zip(prefixes, originals("sd14"), strict=True)))


def placed(state: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    recipe = RECIPES["sd14"]
    parts = zip(recipe.networks, share(recipe, state, "The test").tensors, strict=True)
    return [collect(target_tensors(network), modules(network), tensors, "The test") for network, tensors in parts]


def test_the_whole_file_of_stable_diffusion() -> None:
    state = whole()
    tensors = [name for name in state if "." in name and not name.startswith("model_ema.")]
    starts = ("model.", "first_stage_model.", "cond_stage_model.")
    assert [sum(name.startswith(start) for name in tensors) for start in starts] == [686, 248, 197]
    assert len(tensors) == 686 + 248 + 197, "the last with position_ids"
    assert [len(part) for part in placed(state)] == [686, 248, 196]


@pytest.mark.parametrize("start", ["model.diffusion_model", "first_stage_model", "cond_stage_model.transformer"])
def test_a_name_too_many_or_too_few_in_stable_diffusion(start: str) -> None:
    state = whole()
    name = [name for name in state if name.startswith(start) and not name.endswith("position_ids")][-1]
    with pytest.raises(ModelError, match=r"has 1 tensor \(.*extra"):
        placed({**state, f"{start}.extra": torch.ones(1)})
    del state[name]
    with pytest.raises(ModelError, match="lacks 1 tensor"):
        placed(state)
