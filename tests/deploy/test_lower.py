"""A lowered network computes what the simulated one does: in float64 the same up to rounding, whatever its quantizers are."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from dmq_cli.deploy.integer_layer import IntegerLayer, cut, offsets
from dmq_cli.deploy.lower import Lowered, integer_share, lower
from dmq_cli.ops import PerInputChannel
from dmq_cli.quant import BySnr, DynamicScale, IntervalScale, Log2, MlpScale, PerStepScale, Uniform
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, quantizing
from tests import families
from tests.deploy.test_packed import learned, transformed
from tests.tiny import data, scheme, wrapped

INTEGER: dict[str, list[Rule]] = {
    "static": [],
    "eight bits": [Rule("*.weight", bits=8)],
    "symmetric": [Rule("*.weight", grid=partial(Uniform, symmetric=True)), Rule("*.input", grid=partial(Uniform, symmetric=True))],
    "per step": [Rule("*.input|attn.q|attn.k|attn.v|attn.prob", scale=PerStepScale())],
    "per step, symmetric": [Rule("*.input", grid=partial(Uniform, symmetric=True), scale=PerStepScale())],
    "intervals": [Rule("*.input", scale=IntervalScale(10))],
    "network of the timestep": [Rule("*.input", scale=MlpScale(dim=8, width=8, layers=2))],
}  # fmt: skip
FLOATING_ATTENTION: dict[str, tuple[list[Rule], str, str]] = {
    "powers of two": ([Rule("attn.prob", grid=Log2)], "pv", "its grid is not uniform"),
    "full precision": ([Rule("attn.k", bits=32)], "qk", "one of its factors is in full precision"),
    "dynamic": ([Rule("attn.v", scale=DynamicScale())], "pv", "its range depends on the input"),
}
FLOATING: dict[str, tuple[list[Rule], str]] = {
    "dynamic": ([Rule("resnet.conv1.input", scale=DynamicScale())], "its range depends on the input"),
    "chosen by step": ([Rule("resnet.conv1.input", choice=BySnr((4, 8)))], "its grid changes from step to step"),
    "full precision": ([Rule("resnet.conv1.*", bits=32)], "its input or weight is in full precision"),
    "by input channel": (
        [Rule("resnet.conv1.input", granularity=PerInputChannel())],
        "its input has a range for each channel",
    ),
    "by input channel and step": (
        [Rule("resnet.conv1.input", granularity=PerInputChannel(), scale=PerStepScale())],
        "its input has a range for each channel",
    ),
    "sixteen bits": ([Rule("resnet.conv1.weight", bits=16)], "16 bits are more than runtimes multiply"),
}


def check(attached: Attached, lowered: Lowered, timestep: int, cond: object = None) -> None:
    sample = data()[0]
    with torch.no_grad():
        expected = QuantDenoiser(attached)(sample, torch.tensor([timestep]), cond)
        output = QuantDenoiser(lowered.attached)(sample, torch.tensor([timestep]), cond)
    torch.testing.assert_close(output, expected, rtol=0, atol=1e-9)
    with quantizing(attached, weights=False, activations=False):
        full = QuantDenoiser(attached)(sample, torch.tensor([timestep]), cond)
    assert (full - expected).abs().max() > 1e-3, "the quantizers do something"


@pytest.mark.parametrize("limit", [127, 64, 5])
@pytest.mark.parametrize("name", INTEGER)
def test_every_layer_is_in_integers_and_nothing_changes(name: str, limit: int) -> None:
    attached = learned(wrapped(scheme(*INTEGER[name])), torch.float64)
    lowered = lower(attached, limit)
    assert all("overflow" in reason and name[-3:] in (".qk", ".pv") for name, reason in lowered.floating.items())
    assert bool(lowered.floating) == (limit < 127) and bool(lowered.attention) == (limit == 127)
    assert set(lowered.integer) == set(attached.layers()) and len(lowered.integer) >= 40
    share = integer_share(attached, lowered)
    assert share == 1 if limit == 127 else 0.9 < share < 1
    for timestep in (750, 250, 0):
        check(attached, lowered, timestep)


@pytest.mark.parametrize("name", FLOATING_ATTENTION)
def test_a_product_of_attention_falls_back_by_itself(name: str) -> None:
    rules, suffix, reason = FLOATING_ATTENTION[name]
    attached = learned(wrapped(scheme(*rules)), torch.float64)
    lowered = lower(attached)
    assert set(lowered.floating.values()) == {reason} and {product[-2:] for product in lowered.floating} == {suffix}
    assert {product[-2:] for product in lowered.attention} == {"qk", "pv"} - {suffix}
    check(attached, lowered, 500)


@pytest.mark.parametrize("name", FLOATING)
def test_what_has_no_integer_form_is_told_and_computed_as_it_was(name: str) -> None:
    rules, reason = FLOATING[name]
    attached = learned(wrapped(scheme(*rules)), torch.float64)
    lowered = lower(attached)
    assert set(lowered.floating.values()) == {reason} and all(layer.endswith("conv1") for layer in lowered.floating)
    assert {*lowered.floating, *lowered.integer} == set(attached.layers())
    check(attached, lowered, 500)


@pytest.mark.parametrize("family", families.FAMILIES)
def test_other_families(family: str) -> None:
    attached = learned(families.wrapped(family, families.plain(Rule("*.input", scale=PerStepScale()))), torch.float64)
    check(attached, lower(attached), 250, families.cond(family))


def test_transforms_stay() -> None:
    attached = transformed()
    attached.model.double()
    lowered = lower(attached)
    assert sum(isinstance(m, IntegerLayer) and m.branch_up is not None for m in lowered.attached.model.modules()) == 4
    check(attached, lowered, 500)


def test_the_network_that_was_lowered_stays_as_it_was() -> None:
    attached = wrapped()
    before = QuantDenoiser(attached)(*data())
    lower(attached)
    assert torch.equal(QuantDenoiser(attached)(*data()), before)


@pytest.mark.parametrize("limit", [1, 5, 64, 127])
def test_integers_are_cut_into_those_that_fit(limit: int) -> None:
    integers = torch.arange(-255, 256).double()
    parts = list(cut(integers, limit))
    assert torch.equal(torch.stack([part * 2**shift for shift, part in parts]).sum(0), integers)
    assert int(parts[0][1].max()) <= limit and int(parts[0][1].min()) >= -128 and (len(parts) == 1) == (limit >= 255)
    small = torch.arange(-limit, limit + 1).double()
    ((shift, part),) = cut(small, limit)
    assert shift == 0 and torch.equal(part, small)


def test_channels_are_moved_by_the_least_that_makes_them_fit() -> None:
    integers = torch.tensor([[-100.0, 155.0], [-155.0, 100.0], [-128.0, 127.0], [3.0, 5.0]]).double()
    assert offsets(integers, 127).flatten().tolist() == [28, -27, 0, 0]
    assert offsets(integers, 64).flatten().tolist() == [0, 0, 0, 0], "one of them spans too much"
    assert offsets(integers[3:] + 100, 64).flatten().tolist() == [41]
