"""Random weights: the published architectures to the parameter, seeded tensor by tensor, and keyed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dmq_cli import choices
from dmq_cli.errors import ConfigError
from dmq_cli.models import CondUNetAdapter, identified, model_adapter, model_conditions, model_schedule
from dmq_cli.models.architectures import ARCHITECTURES
from dmq_cli.models.importers.networks import build
from dmq_cli.models.importers.recipes import Recipe
from dmq_cli.models.random_weights import random_network, random_sha256
from tests.families import COND_UNET
from tests.tiny import ARCHITECTURE, one_sentence

MILLIONS = {
    "ddim_cifar10": [35.746],
    "ddpm_church256": [113.673],
    "ddpm_bedroom256": [113.673],
    "ldm4_bedroom": [274.056, 55.323],
    "ldm4_celebahq": [274.056, 55.323],
    "ldm4_ffhq": [274.056, 55.323],
    "ldm4_church": [274.056, 55.323],
    "ldm8_church": [294.967, 83.654],
    "ldm4_imagenet": [400.921, 55.323, 0.513],
    "sd14": [859.521, 83.654, 123.06],
    "dit_xl2_256": [749.826, 83.654],
}
MODEL: dict[str, Any] = {"name": "tiny", "path": "/nowhere", "weights": "random", "seed": 0, "sampling": {}}


def size(network: Any) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_parameter_counts_are_the_published_ones(name: str) -> None:
    networks = [build(network) for network in ARCHITECTURES[name].networks]
    assert [round(size(network) / 1e6, 3) for network in networks] == MILLIONS[name]
    model = choices.model(name)
    assert size(networks[0]) == model["parameters"], "conf/model and the architecture agree"
    config = {**networks[0].config, "_class_name": type(networks[0]).__name__}
    expects = model["expects"]
    assert {key: list(config[key]) if isinstance(config[key], tuple) else config[key] for key in expects} == expects
    assert model["latent"] if len(networks) > 1 else "latent" not in model
    if "scaling_factor" in model:
        assert networks[1].config.scaling_factor == model["scaling_factor"]


def test_every_model_with_a_source_has_an_architecture() -> None:
    models = [choices.model(name) for name in choices.names("model")]
    assert {model["name"] for model in models if "source" in model} == set(ARCHITECTURES)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Recipe:
    (network,) = ARCHITECTURES["ddim_cifar10"].networks
    recipe = replace(ARCHITECTURES["ddim_cifar10"], networks=(replace(network, config=ARCHITECTURE),))
    monkeypatch.setitem(ARCHITECTURES, "tiny", recipe)
    return recipe


def test_weights_are_seeded_by_seed_and_name_and_touch_nothing_else(tiny: Recipe) -> None:
    before = torch.random.get_rng_state()
    first, again, other = (random_network("tiny", seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], again[name]) for name in first)
    drawn = [name for name, tensor in first.items() if tensor.dim() > 1]
    assert drawn and not any(torch.equal(first[name], other[name]) for name in drawn)
    shapes = [name for name in drawn if first[name].shape == (16, 16)]
    assert len(shapes) > 1 and not torch.equal(first[shapes[0]], first[shapes[1]])


def test_sizes_of_random_weights(tiny: Recipe) -> None:
    model = random_network("tiny", 0)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    for module in model.modules():
        if isinstance(module, nn.GroupNorm):
            assert torch.all(module.weight == 1) and torch.all(module.bias == 0)
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 1000:
            fan_in = module.weight[0].numel()
            assert module.bias is not None and torch.all(module.bias == 0)
            assert module.weight.std().item() * math.sqrt(fan_in) == pytest.approx(1, abs=0.15)


def test_they_need_no_file_and_their_seed_is_in_the_identity(tiny: Recipe) -> None:
    model = identified({**MODEL, "parameters": 3, "expects": {"in_channels": 99}, "source": {"repo": None}})
    assert model == {
        "name": "tiny",
        "path": "/nowhere",
        "sampling": {},
        "weights": "random",
        "seed": 0,
        "sha256": random_sha256("tiny", 0),
    }
    assert identified({**MODEL, "seed": 1})["sha256"] != model["sha256"]
    assert model_adapter(model).sample_shape() == (2, 8, 8)
    assert model_schedule(model)["beta_end"] == 0.02


def test_parts_and_conditions(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unet, vae, texts = ARCHITECTURES["sd14"].networks
    small = {"sample_size": 8, "block_out_channels": (8, 8), "norm_num_groups": 4, "layers_per_block": 1}
    stage = small | {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    parts = (replace(unet, config=COND_UNET), replace(vae, config=stage), texts)
    monkeypatch.setitem(ARCHITECTURES, "sd14", replace(ARCHITECTURES["sd14"], networks=parts))
    adapter = model_adapter({**MODEL, "name": "sd14"})
    assert isinstance(adapter, CondUNetAdapter) and adapter.tokens == 77
    assert type(random_network("sd14", 0, "vae")).__name__ == "AutoencoderKL"
    (tmp_path / "prompts.txt").write_text("a cat\na dog\n", encoding="utf-8")
    conditions = model_conditions({**MODEL, "name": "sd14"}, None, str(tmp_path / "prompts.txt"))
    assert conditions is not None and conditions.subjects(range(3)) == ["a cat", "a dog", "a cat"]
    (rows,) = conditions.of(range(3)).values()
    assert rows.shape == (3, 77, COND_UNET["cross_attention_dim"])
    assert torch.equal(rows[0], rows[2]) and not torch.allclose(rows[0], rows[1])


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"name": "ldm8_churches"}, "Did you mean ldm8_church?"),
        ({"weights": "none"}, "use file or random"),
        ({"seed": "x"}, "a whole number"),
        ({"seed": True}, "a whole number"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(change: dict[str, Any], part: str) -> None:
    with pytest.raises(ConfigError) as caught:
        identified({**MODEL, **change})
    assert part in one_sentence(caught.value)
