from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn

from dmq_cli.errors import ModelError
from dmq_cli.models import UNetAdapter, sites
from dmq_cli.models.roles import ROLES
from dmq_cli.zoo.unet import ARCHITECTURE as EMBEDDED
from tests.families import LATENT
from tests.models.checks import check_names, check_splits, check_temporal, check_units
from tests.tiny import ARCHITECTURE, adapter, network, one_sentence

KINDS = {
    "tiny": ARCHITECTURE,
    "embedded": EMBEDDED,
    "two blocks a level": ARCHITECTURE | {"layers_per_block": 2},
    "latent": LATENT,
}
UNET_ROLES = [role for role in ROLES if not role.startswith(("attn.cross", "ff", "transformer", "time.mod"))]
ROLE_COUNTS = {
    "tiny": (1, 1, 1, 1, 8, 8, 8, 5, 4, 4, 4, 4, 1, 1, 4),
    "embedded": (1, 1, 1, 1, 11, 11, 11, 7, 4, 4, 4, 4, 2, 2, 4),
    "latent": (1, 1, 1, 1, 15, 15, 15, 7, 7, 7, 7, 7, 0, 0, 7),
}
SITES = {"tiny": 118, "embedded": 144, "latent": 2 * 84 + 4 * 7}
kinds = pytest.mark.parametrize("kind", KINDS)


def make(kind: str) -> UNetAdapter:
    return adapter(torch.float32, **KINDS[kind])


@pytest.mark.parametrize("kind", ROLE_COUNTS)
def test_every_layer_has_its_role(kind: str) -> None:
    unet = make(kind)
    counts = Counter(layer.role for layer in unet.layers() + unet.attentions())
    assert counts == {role: count for role, count in zip(UNET_ROLES, ROLE_COUNTS[kind], strict=True) if count}
    assert len(sites(unet)) == SITES[kind]
    check_names(unet)


def test_labels_and_parts() -> None:
    named = {site.name: (site.label, site.part) for site in sites(adapter())}
    assert named["conv_in.weight_quantizer"] == ("edge.in.weight", "edge")
    assert named["up_blocks.0.resnets.1.conv_shortcut.input_quantizer"] == ("resnet.shortcut.input", "up")
    assert named["mid_block.attentions.0.prob_quantizer"] == ("attn.prob", "mid")
    assert named["time_embedding.linear_2.input_quantizer"] == ("time.embed_2.input", "time")
    assert named["down_blocks.0.downsamplers.0.conv.weight_quantizer"] == ("down.conv.weight", "down")


@kinds
def test_units_hold_every_layer_once_and_come_in_execution_order(kind: str) -> None:
    check_units(make(kind))


def test_residual_resamplers_are_units() -> None:
    units = make("latent").units()
    assert {unit for unit in units if "samplers" in unit} == {
        "down_blocks.0.downsamplers.0",
        "down_blocks.1.downsamplers.0",
        "up_blocks.0.upsamplers.0",
        "up_blocks.1.upsamplers.0",
    }


@kinds
def test_skip_splits_are_the_tensors_that_are_joined(kind: str) -> None:
    assert check_splits(make(kind)) == {"tiny": 4, "embedded": 6, "two blocks a level": 6, "latent": 6}[kind]


@kinds
@pytest.mark.parametrize("changes", [{}, {"resnet_time_scale_shift": "scale_shift"}], ids=["add", "scale and shift"])
def test_the_projections_of_the_timestep_are_those_of_a_forward_pass(kind: str, changes: dict[str, Any]) -> None:
    unet = adapter(**KINDS[kind] | changes)
    names = [layer.name for layer in unet.layers() if layer.role == "resnet.time_proj"]
    assert len(names) == {"tiny": 8, "embedded": 11, "two blocks a level": 12, "latent": 15}[kind]
    check_temporal(unet, names, torch.tensor([0, 999, 3, 500, 3]))
    check_temporal(unet, names, torch.tensor([7]))


def test_projections_differ_from_timestep_to_timestep_and_not_from_batch_to_batch() -> None:
    unet = adapter()
    both = unet.temporal(torch.tensor([0, 800]))
    for name, value in both.items():
        assert not torch.allclose(value[0], value[1])
        assert torch.allclose(value[1:], unet.temporal(torch.tensor([800]))[name], rtol=1e-12, atol=1e-12)


def test_a_layer_without_a_role_is_an_error() -> None:
    unet = adapter()
    unet.model.mid_block.extra = nn.Linear(3, 3)
    with pytest.raises(ModelError, match=r"Layer mid_block\.extra .* has no role") as caught:
        unet.layers()
    one_sentence(caught.value)


def test_predict_takes_one_timestep_or_one_for_each() -> None:
    unet = adapter()
    sample = torch.randn(3, *unet.sample_shape(), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    direct = network()(sample, torch.tensor([7, 7, 7])).sample
    for timestep in (torch.tensor(7), torch.tensor([7]), torch.tensor([7, 7, 7])):
        assert torch.equal(unet.predict(sample, timestep, None), direct)


def test_a_network_with_classes() -> None:
    unet = adapter(num_class_embeds=5)
    names = [layer.name for layer in unet.layers() if layer.role == "resnet.time_proj"]
    labels = {"class_labels": torch.tensor([4, 0, 2])}
    check_temporal(unet, names, torch.tensor([7, 7, 900]), labels)
    check_units(unet)
    sample = torch.ones(3, *unet.sample_shape(), dtype=torch.float64)
    at = torch.tensor([7, 7, 900])
    assert torch.equal(
        unet.predict(sample, at, labels), network(num_class_embeds=5)(sample, at, labels["class_labels"]).sample
    )
    for call in (lambda: unet.predict(sample, at, None), lambda: unet.temporal(at)):
        with pytest.raises(
            ModelError, match="takes conditions by name: class_labels, but class_labels was not given"
        ) as caught:
            call()
        one_sentence(caught.value)


@pytest.mark.parametrize("cond", [{"class_labels": torch.zeros(1)}, torch.zeros(1)])
def test_a_condition_for_a_network_without_any(cond: object) -> None:
    unet = adapter()
    with pytest.raises(ModelError, match=r"takes no condition, but .* was given") as caught:
        unet.predict(torch.zeros(1, *unet.sample_shape(), dtype=torch.float64), torch.tensor([3]), cond)
    one_sentence(caught.value)
