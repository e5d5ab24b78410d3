from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import lookup_backend

from dmq_cli.calib import fit_activations
from dmq_cli.diagnose import network_cost
from dmq_cli.models import ModelDenoiser
from dmq_cli.ops import PerChannel
from dmq_cli.quant import (
    BySnr,
    Intervals,
    MlpScale,
    PerStep,
    PerStepScale,
    Split,
    Static,
    StaticScale,
    StepMLP,
    TensorQuantizer,
)
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, bake, freeze, quantizing
from dmq_cli.wrap.layers import with_quantizers
from tests.tiny import SMALL, TIMESTEPS, adapter, batches, data, network, scheme, wrapped

PER_STEP = Rule("*.input", scale=PerStepScale())


def run(attached: Attached, sample: Tensor | None = None, timestep: Tensor | None = None) -> Tensor:
    defaults = data()
    return QuantDenoiser(attached)(
        defaults[0] if sample is None else sample, defaults[1] if timestep is None else timestep
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("baked", [False, True])
def test_all_quantizers_off_is_full_precision_bit_for_bit(dtype: torch.dtype, baked: bool) -> None:
    attached = wrapped(dtype=dtype)
    if baked:
        bake(attached)
    sample, timestep = data(dtype=dtype)
    expected = network(dtype)(sample, timestep).sample
    assert not torch.equal(run(attached, sample, timestep), expected)
    with quantizing(attached, weights=False, activations=False):
        assert torch.equal(run(attached, sample, timestep), expected)
        assert torch.equal(ModelDenoiser(attached.adapter)(sample, timestep), expected)
    assert not torch.equal(run(attached, sample, timestep), expected)


def test_32_bits_everywhere_is_full_precision() -> None:
    attached = wrapped(scheme(Rule("*", bits=32)))
    sample, timestep = data()
    assert attached.quantizers() == {} and not attached.layers()["conv_in"].baked
    bake(attached)
    assert torch.equal(run(attached), network()(sample, timestep).sample)


def test_keys_and_values_of_the_model_are_kept() -> None:
    before, attached = network().state_dict(), wrapped()
    bake(attached)
    after = attached.model.state_dict()
    tensors = {k: v for k, v in after.items() if "_quantizer." not in k}
    assert list(tensors) == list(before) and all(torch.equal(tensors[k], v) for k, v in before.items())
    assert len(attached.layers()) == 51 == len(adapter().layers())
    assert all(isinstance(layer, nn.Conv2d | nn.Linear) for layer in attached.layers().values())


def test_a_quantizer_at_every_site_and_two_at_a_split() -> None:
    attached = wrapped(fit=False)
    assert len(attached.specs) == 118 and len(attached.quantizers()) == 118 + 2 * 4
    assert len(attached.quantizers("weight")) == len(list(attached.weight_pieces())) == 51 + 4
    assert set(attached.quantizers("weight")) == {name for name, *_ in attached.weight_pieces()}
    assert len(attached.quantizers("q", "prob")) == 8
    bits = (
        {q.bits for q in attached.quantizers("weight").values()},
        {q.bits for q in attached.quantizers("v").values()},
    )
    assert bits == ({4}, {8})


def test_scopes_restore_what_was() -> None:
    attached = wrapped(fit=False)
    odd = attached.quantizers()["conv_in.input_quantizer"]
    odd.enabled = False
    with quantizing(attached, weights=True, activations=False):
        on = {name for name, q in attached.quantizers().items() if q.enabled}
        assert on == set(attached.quantizers("weight"))
        with pytest.raises(ZeroDivisionError), quantizing(attached, weights=False, activations=True):
            assert odd.enabled and len([q for q in attached.quantizers().values() if q.enabled]) == 126 - 55
            raise ZeroDivisionError
        assert {name for name, q in attached.quantizers().items() if q.enabled} == on
    assert [name for name, q in attached.quantizers().items() if not q.enabled] == ["conv_in.input_quantizer"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_baked_weights_change_nothing(dtype: torch.dtype) -> None:
    attached = wrapped(dtype=dtype)
    sample, timestep = data(dtype=dtype)
    expected = run(attached, sample, timestep)
    bake(attached)
    calls = [0]
    for quantizer in attached.quantizers("weight").values():
        quantizer.register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    assert torch.equal(run(attached, sample, timestep), expected)
    assert calls == [0] and all(layer.baked is not None for layer in attached.layers().values())


def test_baking_while_weights_are_off_keeps_nothing() -> None:
    attached = wrapped()
    expected = run(attached)
    with quantizing(attached, weights=False, activations=True):
        bake(attached)
    assert torch.equal(run(attached), expected)


def test_baked_weights_follow_the_model_to_another_dtype() -> None:
    attached = wrapped(dtype=torch.float32)
    bake(attached)
    attached.model.double()
    assert {layer.baked.dtype for layer in attached.layers().values() if layer.baked is not None} == {torch.float64}
    assert run(attached).dtype == torch.float64


def test_mixed_steps_in_a_batch_are_the_steps_one_by_one() -> None:
    rules = scheme(PER_STEP, Rule("attn.*", scale=PerStepScale()), Rule("attn.to_*.weight", scale=StaticScale()))
    attached = wrapped(rules)
    assert sum(isinstance(q.scale, PerStep) for q in attached.quantizers().values()) == 55 + 16
    sample, timestep = data()
    together = run(attached, sample, timestep)
    apart = torch.cat([run(attached, sample[i : i + 1], timestep[i : i + 1]) for i in range(len(sample))])
    assert torch.equal(together, apart)
    assert not torch.equal(together, run(attached, sample, timestep.roll(1)))
    shared = run(attached, sample, torch.tensor(500))
    assert torch.equal(shared, run(attached, sample, torch.full((8,), 500)))


def test_timesteps_off_the_grid_use_the_nearest_step() -> None:
    attached = wrapped(scheme(PER_STEP))
    scales = attached.quantizers()["conv_in.input_quantizer"].scale
    assert isinstance(scales, PerStep) and len(scales.scale) == 4
    with attached.context.at(attached.grid(torch.tensor([740, 260, 3]))):
        assert torch.equal(scales(torch.zeros(3, 1))[0].flatten(), scales.scale[[0, 2, 3]])


def test_units_of_a_wrapped_model_can_be_asked_for() -> None:
    attached = wrapped(scheme(PER_STEP))
    assert attached.units() == adapter().units()


def test_a_split_is_two_quantizers_side_by_side() -> None:
    attached = wrapped()
    layer = attached.model.get_submodule("up_blocks.1.resnets.0.conv_shortcut")
    inputs, weights = layer.input_quantizer, layer.weight_quantizer
    assert isinstance(inputs, Split) and isinstance(weights, Split)
    assert inputs.sizes == weights.sizes == (16, 8)
    for quantizer in [*inputs.parts, *weights.parts]:
        assert isinstance(quantizer, TensorQuantizer)
    assert inputs.parts[0].scale.scale.item() != inputs.parts[1].scale.scale.item()  # type: ignore[union-attr, operator]
    x = torch.randn(2, 24, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = inputs.parts[0](x[:, :16]), inputs.parts[1](x[:, 16:])
    weight: Tensor = layer.weight  # type: ignore[assignment]
    left, right = weights.parts[0](weight[:, :16]), weights.parts[1](weight[:, 16:])
    bias: Tensor = layer.bias  # type: ignore[assignment]
    two = nn.functional.conv2d(low, left, bias) + nn.functional.conv2d(high, right)
    assert torch.allclose(layer(x), two, rtol=1e-12, atol=1e-12)
    for piece, part in ((weight[:, :16], weights.parts[0]), (weight[:, 16:], weights.parts[1])):
        by_hand = (piece.amax((1, 2, 3)).clamp_min(0) - piece.amin((1, 2, 3)).clamp_max(0)) / 15
        assert torch.allclose(part.scale.scale.flatten(), by_hand)  # type: ignore[union-attr, operator]


def test_a_copy_stands_alone() -> None:
    attached = wrapped(scheme(PER_STEP))
    bake(attached)
    expected = run(attached)
    twin = copy.deepcopy(attached)
    assert torch.equal(run(twin), expected)
    for quantizer in twin.quantizers().values():
        quantizer.scale.scale.mul_(3)  # type: ignore[operator]
    bake(twin)
    assert not torch.equal(run(twin), expected) and torch.equal(run(attached), expected)
    scales = [q.scale for q in twin.quantizers().values() if isinstance(q.scale, PerStep)]
    assert len(scales) == 55 and all(scale.context is twin.context for scale in scales)


@pytest.mark.slow
def test_one_compiled_graph_for_all_steps() -> None:
    rules = scheme(PER_STEP, Rule("attn.*", scale=PerStepScale()), Rule("attn.to_*.weight", scale=StaticScale()))
    attached = wrapped(rules, **SMALL)
    bake(attached)
    sample, _ = data(2)
    expected = [run(attached, sample, step[None]) for step in TIMESTEPS[:3]]
    graphs: list[torch.fx.GraphModule] = []
    aot_eager = lookup_backend("aot_eager")

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        graphs.append(graph)
        return aot_eager(graph, inputs)

    compiled = torch.compile(attached.model, fullgraph=True, backend=backend)
    for step, eager in zip(TIMESTEPS[:3], expected, strict=True):
        with attached.context.at(attached.grid(step[None])):
            assert torch.allclose(compiled(sample, step[None], return_dict=False)[0], eager, rtol=1e-12, atol=1e-12)
    assert len(graphs) == 1


def test_layers_of_another_kind_are_refused() -> None:
    with pytest.raises(TypeError, match="ConvTranspose2d has no quantized subclass"):
        with_quantizers(nn.ConvTranspose2d(1, 1, 1), nn.Identity(), nn.Identity())


CHOICE = Rule("resnet.*.input", choice=BySnr((3, 6, 8)))


def test_choices_and_splits_nest_and_every_part_is_a_quantizer() -> None:
    attached = wrapped(scheme(CHOICE), fit=False)
    # inputs of 8 conv1, 8 conv2, 8 projections and 5 shortcuts, of which the 4 of the up path have two halves
    assert len(attached.choices()) == 8 * 3 + 1 + 4 * 2
    assert len(attached.quantizers("input")) == 51 - 29 + 3 * (25 + 8)
    assert len(attached.quantizers("weight")) == 55 and attached.quantizers("q").keys().isdisjoint(attached.choices())
    shortcut = "up_blocks.1.resnets.0.conv_shortcut.input_quantizer"
    nested = [f"{shortcut}.parts.{half}" for half in (0, 1)]
    assert set(nested) <= set(attached.choices()) and f"{shortcut}.parts.1.parts.2" in attached.quantizers("input")
    modules = dict(attached.model.named_modules())
    for path, choice in attached.choices().items():
        assert modules[path] is choice and attached.spec(path).choice == BySnr((3, 6, 8))
        widths = [attached.quantizers()[f"{path}.parts.{n}"].bits for n in range(3)]
        assert widths == [8, 6, 3] and choice.choice.shape == (4,) and choice.context is attached.context
    assert all(modules[path] is quantizer for path, quantizer in attached.quantizers().items())
    names = {site.name: spec for site, spec in attached.specs.items()}
    assert all(attached.spec(path) is names[path.split(".parts.")[0]] for path in attached.quantizers())


def test_choices_that_were_not_made_are_the_widest_grid_bit_for_bit() -> None:
    attached, plain = wrapped(scheme(CHOICE)), wrapped()
    assert torch.equal(run(attached), run(plain))
    for choice in attached.choices().values():
        choice.choice.copy_(torch.tensor([0, 2, 1, 0]))
    sample, timestep = data()
    widest = torch.isin(timestep, TIMESTEPS[[0, 3]])
    assert 0 < int(widest.sum()) < 8
    assert torch.equal(run(attached)[widest], run(plain)[widest])
    assert not torch.isclose(run(attached)[~widest], run(plain)[~widest]).flatten(1).all(1).any()
    apart = torch.cat([run(attached, sample[i : i + 1], timestep[i : i + 1]) for i in range(8)])
    assert torch.allclose(apart, run(attached), rtol=1e-12, atol=1e-13)


def test_a_choice_of_inputs_needs_no_step_in_full_precision() -> None:
    attached, (sample, timestep) = wrapped(scheme(CHOICE)), data()
    with quantizing(attached, weights=False, activations=False):
        assert torch.equal(ModelDenoiser(attached.adapter)(sample, timestep), network()(sample, timestep).sample)
    assert attached.units() == adapter().units()
    assert network_cost(attached).macs == network_cost(wrapped(fit=False)).macs


def test_every_part_of_a_choice_is_fitted() -> None:
    attached, plain = wrapped(scheme(CHOICE), fit=False), wrapped()
    fit_activations(attached, batches())
    fitted = 0
    for path in attached.choices():
        for number, width in enumerate((8, 6, 3)):
            part, whole = attached.quantizers()[f"{path}.parts.{number}"].scale, plain.quantizers()[path].scale
            assert isinstance(part, Static) and isinstance(whole, Static)
            assert torch.allclose(part.scale * (2**width - 1), whole.scale * 255, rtol=1e-6)
            fitted += 1
    assert fitted == 33 * 3


NETWORKS = Rule("*.input|attn.[qkvp]|attn.prob", scale=MlpScale(dim=8, width=8, layers=3))


def moved(attached: Attached) -> Attached:
    """As after training: every parameter of a scale's network is another."""
    generator = torch.Generator().manual_seed(0)
    sources = [q.scale for q in attached.quantizers().values() if isinstance(q.scale, StepMLP)]
    with torch.no_grad():
        for source in sources:
            for parameter in source.learnable():
                parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) / 5)
    return attached


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_networks_of_scales_start_as_static_scales_bit_for_bit(dtype: torch.dtype) -> None:
    attached = wrapped(scheme(NETWORKS), dtype)
    assert sum(isinstance(q.scale, StepMLP) for q in attached.quantizers().values()) == 55 + 16
    sample, timestep = data(dtype=dtype)
    assert torch.equal(run(attached, sample, timestep), run(wrapped(dtype=dtype), sample, timestep))


@pytest.mark.parametrize("rules", [(NETWORKS,), (NETWORKS, CHOICE)], ids=["plain", "in choices"])
def test_freezing_replaces_every_network_and_changes_no_bit(rules: tuple[Rule, ...]) -> None:
    attached = moved(wrapped(scheme(*rules), torch.float32))
    for choice in attached.choices().values():
        choice.choice.copy_(torch.tensor([0, 2, 1, 0]))
    sample, timestep = data(dtype=torch.float32)
    calls = [timestep, timestep + 1, *TIMESTEPS, torch.tensor(999), torch.tensor(613)]  # the last three off the grid
    before = [run(attached, sample, at) for at in calls]
    assert not torch.equal(before[0], run(wrapped(scheme(*rules[1:]), torch.float32), sample, timestep))
    count = sum(isinstance(q.scale, StepMLP) for q in attached.quantizers().values())
    assert count == 55 + 16 + (2 * 33 if len(rules) == 2 else 0)
    freeze(attached)
    assert not any(isinstance(module, StepMLP) for module in attached.model.modules())
    assert sum(isinstance(q.scale, Intervals) for q in attached.quantizers().values()) == count
    for at, expected in zip(calls, before, strict=True):
        assert torch.equal(run(attached, sample, at), expected)
    assert not any(parameter.requires_grad for parameter in attached.model.parameters())


def test_freezing_leaves_other_scales_alone() -> None:
    attached = wrapped(scheme(PER_STEP))
    before = {name: quantizer.scale for name, quantizer in attached.quantizers().items()}
    freeze(attached)
    assert all(quantizer.scale is before[name] for name, quantizer in attached.quantizers().items())


@pytest.mark.parametrize("rules", [(), (Rule("*.input", scale=PerStepScale()),), (NETWORKS,)])
def test_projections_of_the_timestep_are_quantized_as_in_a_forward_pass(rules: tuple[Rule, ...]) -> None:
    attached, (_, timestep) = wrapped(scheme(*rules, act=4)), data()
    outputs: dict[str, Tensor] = {}
    for layer in attached.adapter.layers():
        if layer.role == "resnet.time_proj":
            module = attached.model.get_submodule(layer.name)
            module.register_forward_hook(lambda _m, _x, y, n=layer.name: outputs.__setitem__(n, y))
    run(attached)
    expected = dict(outputs)
    with attached.at(timestep):
        projections = attached.adapter.temporal(timestep)
    assert set(projections) == set(expected) and len(projections) == 8
    assert all(torch.equal(projections[name], value) for name, value in expected.items())
    exact = adapter().temporal(timestep)
    assert not any(torch.allclose(projections[name], exact[name], rtol=1e-3) for name in projections)


def test_a_channel_axis_is_split_where_the_weight_is() -> None:
    attached = wrapped(scheme(Rule("resnet.shortcut.weight", part="up", granularity=PerChannel(1))))
    halves = [quantizer.scale for name, quantizer in attached.quantizers("weight").items() if ".parts." in name]
    shapes = [tuple(source.scale.shape) for source in halves if isinstance(source, Static)]
    sizes = attached.adapter.skip_splits().values()
    assert shapes == [(1, size, 1, 1) for pair in sizes for size in pair] and len(shapes) == 8
    run(attached)
