"""A network that was packed and unpacked computes what it computed before, bit for bit, whatever its quantizers are."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.deploy.folder import fill, shapes_of
from dmq_cli.deploy.packed import packed, plain_state, unpacked
from dmq_cli.deploy.records import built, record
from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.ops import PerChannel, PerInputChannel
from dmq_cli.quant import (
    ByLikelihood,
    BySnr,
    DynamicScale,
    FixedRound,
    IntervalScale,
    Log2,
    MlpScale,
    Nearest,
    PerStepScale,
    Static,
    StepContext,
    TensorQuantizer,
    Uniform,
)
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, bake
from tests import families
from tests.tiny import adapter, data, one_sentence, scheme, wrapped

SYMMETRIC = partial(Uniform, symmetric=True)
RULES: dict[str, list[Rule]] = {
    "static": [],
    "two bits": [Rule("*.weight", bits=2)],
    "three bits": [Rule("*.weight", bits=3), Rule("*.input", bits=6)],
    "symmetric": [
        Rule("*.weight", grid=SYMMETRIC),
        Rule("*.input", grid=partial(Uniform, symmetric=True, narrow=True)),
    ],
    "per step": [Rule("*.input|attn.q|attn.k|attn.v|attn.prob", scale=PerStepScale())],
    "intervals": [Rule("*.input", scale=IntervalScale(10))],
    "network of the timestep": [Rule("*.input", scale=MlpScale(dim=8, width=8, layers=2))],
    "both ends": [Rule("*.input", scale=PerStepScale(), range="low_learned"), Rule("attn.*", range="low_fixed")],
    "dynamic": [Rule("*.input", scale=DynamicScale())],
    "powers of two": [Rule("attn.prob", grid=Log2)],
    "chosen by step": [Rule("resnet.conv1.input", choice=BySnr((4, 8))), Rule("attn.prob", choice=ByLikelihood())],
    "by input channel": [Rule("resnet.conv1.input", granularity=PerInputChannel())],
    "partly full precision": [Rule("resnet.*", bits=32)],
    "one range a weight": [Rule("*.weight", granularity=PerChannel()), Rule("resnet.*.weight", granularity=None)],
}


def learned(attached: Attached, dtype: torch.dtype) -> Attached:
    """Random rounding decisions, trained biases and random choices, as learning leaves them."""
    generator = torch.Generator().manual_seed(0)
    for _, quantizer, weight, _ in attached.weight_pieces():
        quantizer.rounding = FixedRound(torch.rand(weight.shape, generator=generator) < 0.5)
    biases = [name for name, _ in attached.model.named_parameters() if name.endswith(".bias")]
    for bias in attached.trained.open(attached.model, biases[:3]):
        bias.data += 0.1 * torch.randn(bias.shape, generator=generator).to(dtype)
    for choice in attached.choices().values():
        choice.choice.copy_(torch.randint(len(choice.parts), choice.choice.shape, generator=generator))
    return attached


def again(attached: Attached, plain: Any) -> Attached:
    """What a file gives back. plain: the adapter of a network of the same kind, whose weights are all zero."""
    tensors, layout = packed(attached)
    for parameter in plain.model.parameters():
        parameter.zero_()
    layout = json.loads(json.dumps(layout))
    fill(plain.model, plain_state(tensors, layout, shapes_of(plain.model)))
    return unpacked(plain, {name: value.clone() for name, value in tensors.items()}, layout)


def check(attached: Attached, other: Attached, call: tuple[Any, ...]) -> None:
    bake(attached)
    bake(other)
    for name, layer in attached.layers().items():
        assert torch.equal(other.layers()[name].quantized_weight(), layer.quantized_weight()), name
    assert torch.equal(QuantDenoiser(other)(*call), QuantDenoiser(attached)(*call))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", RULES)
def test_the_network_comes_back(name: str, dtype: torch.dtype) -> None:
    attached = learned(wrapped(scheme(*RULES[name]), dtype), dtype)
    check(attached, again(attached, adapter(dtype)), data(dtype=dtype))


@pytest.mark.parametrize("family", families.FAMILIES)
def test_networks_of_other_families_come_back(family: str) -> None:
    attached = learned(families.wrapped(family, families.plain(Rule("*.input", scale=PerStepScale()))), torch.float64)
    plain = families.Conditioned(family, families.adapter(family), torch.float64)
    check(attached, again(attached, plain), (*data(), families.cond(family)))


def transformed() -> Attached:
    """A network whose first layers have a scaling of channels and a branch."""
    attached = wrapped(dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    for layer in [layer for layer in attached.layers().values() if isinstance(layer, nn.Conv2d)][:4]:
        out, width = layer.weight.shape[:2]
        layer.channel_scale = 0.5 + torch.rand(width, generator=generator)
        layer.branch_down = 0.1 * torch.randn(2, *layer.weight.shape[1:], generator=generator)
        layer.branch_up = 0.1 * torch.randn(out, 2, generator=generator)
    return attached


def test_transforms_stay_around_the_integers() -> None:
    attached = transformed()
    other = again(attached, adapter(torch.float32))
    assert sum(layer.branch_up is not None for layer in other.layers().values()) == 4
    assert other.model.state_dict().keys() == attached.model.state_dict().keys(), "no weight is there twice"
    tensors, once_more = packed(attached)[0], packed(other)[0]
    assert tensors.keys() == once_more.keys()
    assert all(torch.equal(once_more[name], value) for name, value in tensors.items())
    check(attached, other, data(dtype=torch.float32))


def test_the_file_is_as_small_as_its_codes() -> None:
    attached = wrapped(dtype=torch.float32)
    tensors, _ = packed(attached)
    codes = {name: value for name, value in tensors.items() if ".weight.codes" in name}
    pieces = list(attached.weight_pieces())
    assert len(codes) == len(pieces) >= 40
    assert sum(value.numel() for value in codes.values()) == sum(-(-weight.numel() // 2) for _, _, weight, _ in pieces)
    assert not {f"{name}.weight" for name in attached.layers()} & tensors.keys(), "no weight is there twice"
    assert not any("rounding" in name for name in tensors)


def lost(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    del tensors["conv_out.weight.codes"]


def scale_lost(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    del tensors["conv_out.weight_quantizer.scale.scale"]


def short(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    tensors["conv_out.weight.codes"] = tensors["conv_out.weight.codes"][:-1]


def site_unknown(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    layout["conv_between.input_quantizer"] = layout["conv_out.input_quantizer"]


def steps_lost(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    del tensors["time_grid.timesteps"]


def kind_unknown(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    layout["conv_out.input_quantizer"] = {"grid": "os.system", "bits": 8, "scale": "static", "shape": []}


def huge(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    layout["conv_out.input_quantizer"] = {**layout["conv_out.input_quantizer"], "shape": [1 << 40]}


def not_split_so(tensors: dict[str, Tensor], layout: dict[str, Any]) -> None:
    name = next(name for name, entry in layout.items() if "split" in entry and "weight" in name)
    layout[name] = {**layout[name], "split": [1, 1]}


@pytest.mark.parametrize(
    "damage", [lost, scale_lost, short, site_unknown, steps_lost, kind_unknown, huge, not_split_so]
)
def test_a_damaged_file_is_refused(damage: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    tensors, layout = packed(wrapped(dtype=torch.float32))
    tensors, changed, plain = dict(tensors), copy.deepcopy(dict(layout)), adapter(torch.float32)
    damage(tensors, changed)
    with pytest.raises(ArtifactCorruptError) as caught:
        fill(plain.model, plain_state(tensors, changed, shapes_of(plain.model)))
        unpacked(plain, tensors, changed)
    one_sentence(caught.value)


class OwnScale(Static):
    """A scale source of somebody else's."""


def test_a_quantizer_of_ones_own_is_refused() -> None:
    with pytest.raises(ConfigError, match="TensorQuantizer of Uniform and OwnScale") as caught:
        record(TensorQuantizer(Uniform(4), OwnScale(1.0), Nearest()))
    one_sentence(caught.value)


def test_a_record_builds_what_it_describes() -> None:
    context = StepContext()
    for rules in RULES.values():
        for name, _ in (attached := wrapped(scheme(*rules), torch.float32)).quantizers().items():
            quantizer = attached.quantizers()[name]
            quantizer.scale = quantizer.scale.frozen()  # type: ignore[operator]
            entry = record(quantizer)
            copied = built(entry, context)
            assert (
                record(copied) == entry
                and copied.grid == quantizer.grid
                and type(copied.scale) is type(quantizer.scale)
            )
