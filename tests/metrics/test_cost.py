"""What a network costs: by hand for one layer and one attention, by torch's own counter for a whole UNet."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from dmq_cli.diagnose import Cost, network_cost, product_macs, stored_bytes
from dmq_cli.models import NOISE
from dmq_cli.models.adapter import Layer
from dmq_cli.quant import MlpScale
from dmq_cli.wrap import Attached, Rule, Scheme, attach, extra_state, observing, state
from tests.tiny import SHAPE, TIMESTEPS, network, scheme, wrapped


class Single:
    """An adapter of one convolution or one attention, called `part`."""

    prediction = NOISE

    def __init__(
        self, part: nn.Module, layers: list[Layer], attentions: list[Layer], shape: tuple[int, int, int]
    ) -> None:
        self.model: nn.Module = nn.Sequential(OrderedDict(part=part))
        self._layers, self._attentions, self._shape = layers, attentions, shape

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        if not self._attentions:
            return self.model(sample)  # type: ignore[no-any-return]
        tokens = sample.flatten(1, 2)
        part = self.model.get_submodule("part")
        return part(tokens, encoder_hidden_states=tokens[:, :5])  # type: ignore[no-any-return]

    def layers(self) -> list[Layer]:
        return self._layers

    def attentions(self) -> list[Layer]:
        return self._attentions

    def units(self) -> list[str]:
        return ["part"]

    def blank_cond(self, num: int) -> None:
        return None

    def temporal(self, timestep: Tensor, cond: object = None) -> dict[str, Tensor]:
        return {}

    def skip_splits(self) -> dict[str, tuple[int, int]]:
        return {}

    def sample_shape(self) -> tuple[int, int, int]:
        return self._shape


def convolution(weight: int, act: int, **options: Any) -> Attached:
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, **options)
    adapter = Single(layer, [Layer("part", "conv", "edge")], [], (4, 8, 8))
    return attach(adapter, Scheme([Rule("*", bits=act), Rule("*.weight", bits=weight)]), TIMESTEPS)


def attention(**bits: int) -> Attached:
    """Two heads of size 4; 6 tokens look at 5."""
    from diffusers.models.attention_processor import Attention

    layers = [Layer(f"part.{name}", "lin", "mid") for name in ("to_q", "to_k", "to_v", "to_out.0")]
    adapter = Single(Attention(8, heads=2, dim_head=4), layers, [Layer("part", "attn", "mid")], (2, 3, 8))
    rules = [Rule("*", bits=32), *(Rule(f"attn.{slot}", bits=width) for slot, width in bits.items())]
    return attach(adapter, Scheme(rules), TIMESTEPS)


def flops(attached: Attached) -> Any:
    """torch's count, with the attention products written out: it does not know the fused ones of CPUs."""
    sample = torch.zeros(1, *SHAPE, dtype=torch.float64)
    with observing(attached), torch.no_grad(), FlopCounterMode(display=False) as counter:
        attached.adapter.predict(sample, torch.zeros(1, dtype=torch.int64), None)
    return counter


def test_one_convolution_by_hand() -> None:
    macs = (6 * 4 * 4) * (4 * 3 * 3)  # every output element is a product of length 36
    assert network_cost(convolution(weight=3, act=8)) == Cost(
        macs=macs,
        bops=2 * macs * 3 * 8,
        bops_fp=2 * macs * 32 * 32,
        weight_bytes=81,  # 216 weights of 3 bits
        other_bytes=6 * 4,
        size_bytes_fp=(216 + 6) * 4,
    )


def test_half_a_byte_is_a_byte_and_groups_are_shorter() -> None:
    cost = network_cost(convolution(weight=3, act=32, groups=2, bias=False))
    assert (cost.macs, cost.bops) == (96 * 18, 2 * 96 * 18 * 3 * 32)
    assert (cost.weight_bytes, cost.other_bytes, cost.size_bytes_fp) == (41, 0, 108 * 4)  # 324 bits are 40.5 bytes


def test_one_attention_by_hand() -> None:
    macs = {(left.name, right.name): n for (left, right), n in product_macs(attention(q=8, k=6, prob=4)).items()}
    assert macs.pop(("part.q_quantizer", "part.k_quantizer")) == 2 * 6 * 5 * 4
    assert macs.pop(("part.prob_quantizer", "part.v_quantizer")) == 2 * 6 * 5 * 4
    layers = {module: tokens * 8 * 8 for module, tokens in (("to_q", 6), ("to_k", 5), ("to_v", 5), ("to_out.0", 6))}
    assert macs == {(f"part.{m}.input_quantizer", f"part.{m}.weight_quantizer"): n for m, n in layers.items()}
    cost = network_cost(attention(q=8, k=6, prob=4))
    assert cost.bops == 2 * (240 * 8 * 6 + 240 * 4 * 32 + sum(layers.values()) * 32 * 32)


def test_totals_and_layers_are_those_of_the_flop_counter() -> None:
    attached = wrapped(fit=False)
    macs, counter = product_macs(attached), flops(attached)
    assert 2 * sum(macs.values()) == counter.get_total_flops()
    by_module = counter.get_flop_counts()
    layers = {left.module: n for (left, _), n in macs.items() if left.slot == "input"}
    assert set(layers) == {layer.name for layer in attached.adapter.layers()}
    for name, number in layers.items():
        assert 2 * number == sum(by_module[f"UNet2DModel.{name}"].values()), name
    for layer in attached.adapter.attentions():
        inside = {name: n for (left, _), n in macs.items() if (name := left.module).startswith(layer.name)}
        assert len(inside) == 5 and {left.slot for left, _ in macs if left.module == layer.name} == {"q", "prob"}


def test_the_count_leaves_the_network_as_it_was() -> None:
    attached = wrapped(fit=False)
    enabled = {name: quantizer.enabled for name, quantizer in attached.quantizers().items()}
    network_cost(attached)
    assert {name: quantizer.enabled for name, quantizer in attached.quantizers().items()} == enabled
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in attached.model.modules())


def test_size_of_w4a8_by_another_count() -> None:
    attached, plain = wrapped(fit=False), network()
    edged = wrapped(scheme(Rule("edge.*.weight", bits=8)), fit=False)
    layers = {n: m for n, m in plain.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d))}
    weights = {name: layer.weight.numel() for name, layer in layers.items()}
    parameters = sum(p.numel() for p in plain.parameters())
    for quantized, edge in ((attached, 4), (edged, 8)):
        cost = network_cost(quantized)
        bits = sum(number * (edge if name in ("conv_in", "conv_out") else 4) for name, number in weights.items())
        assert cost.weight_bytes == bits / 8
        assert cost.other_bytes == 4 * (parameters - sum(weights.values()))
        assert cost.size_bytes_fp == 4 * parameters
    # a scale and a zero point for each output channel, each layer's input and q, k, v, prob; split shortcuts have two
    halves = attached.adapter.skip_splits()
    pairs = sum((layer.weight.shape[0] + 1) * (2 if name in halves else 1) for name, layer in layers.items())
    pairs += 4 * len(attached.adapter.attentions())
    assert stored_bytes(state(attached)) == 4 * 2 * pairs


def test_full_precision_costs_what_it_costs() -> None:
    cost = network_cost(wrapped(Scheme([Rule("*", bits=32)]), fit=False))
    assert cost.bops == cost.bops_fp == 2 * cost.macs * 1024
    assert cost.weight_bytes + cost.other_bytes == cost.size_bytes_fp


def test_shapes_are_enough() -> None:
    attached = wrapped(fit=False)
    wanted = network_cost(attached)
    attached.model.to("meta")
    assert network_cost(attached) == wanted and wanted.record()["macs"] == wanted.macs


@pytest.mark.parametrize(
    ("name", "bytes_each"),
    [
        ("conv_in.weight_quantizer.scale.scale", 4),
        ("conv_in.input_quantizer.scale.zero_point", 4),
        ("conv_in.weight_quantizer.rounding.up", 0),
        ("time_grid.timesteps", 0),
        ("conv_in.tuned", 0),
        ("conv_in.channel_scale", 4),
        ("conv_in.branch_down", 2),
        ("conv_in.branch_up", 2),
        ("gain", 4),
    ],
)
def test_bytes_of_what_is_stored(name: str, bytes_each: int) -> None:
    for dtype in (torch.float64, torch.float32, torch.int64, torch.bool):
        assert stored_bytes({name: torch.zeros(3, 5, dtype=dtype)}) == 15 * bytes_each
    assert stored_bytes({name: torch.zeros(1), "bias": torch.zeros(2)}) == bytes_each + 8


def test_a_network_of_scales_costs_the_table_it_becomes() -> None:
    """A zero point, and a scale for each of the sampler's four timesteps, at every input."""
    attached = wrapped(scheme(Rule("*.input", scale=MlpScale(dim=8, width=8))), fit=False)
    plain = wrapped(fit=False)
    assert stored_bytes(state(attached)) - stored_bytes(state(plain)) == 55 * 3 * 4


def test_a_branch_of_low_rank_is_two_products_more_at_16_bits() -> None:
    attached = convolution(weight=3, act=8)
    before, layer = network_cost(attached), attached.layers()["part"]
    layer.branch_down, layer.branch_up = torch.zeros(2, 4, 3, 3), torch.zeros(6, 2)
    after = network_cost(attached)
    assert after.macs == before.macs, "of the layer itself"
    assert after.bops - before.bops == 2 * (16 * 2 * 36 + 16 * 6 * 2) * 16 * 16
    assert stored_bytes(extra_state(attached)) == 2 * (2 * 36 + 6 * 2)
