"""What transforms and fine-tuning add to a layer: the same function in full precision, another one to quantize."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.ops import PerChannel
from dmq_cli.quant import FixedRound, FullPrecision, Nearest, Static, TensorQuantizer, Uniform
from dmq_cli.wrap import (
    Attached,
    QuantDenoiser,
    QuantMixin,
    bake,
    extra_state,
    load_extra_state,
    load_state,
    quantizing,
    state,
)
from dmq_cli.wrap.layers import EXTRAS, with_quantizers
from tests.tiny import data, network, one_sentence, wrapped

RANK = 2
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(6, 5), (3, 6)),
    "linear of tokens": (lambda: nn.Linear(6, 5, bias=False), (3, 4, 6)),
    "conv1d": (lambda: nn.Conv1d(6, 5, 3, stride=2, padding=1), (3, 6, 9)),
    "conv2d 1x1": (lambda: nn.Conv2d(6, 5, 1), (3, 6, 7, 7)),
    "conv2d": (lambda: nn.Conv2d(6, 5, 3, padding=1), (3, 6, 7, 7)),
    "conv2d strided": (lambda: nn.Conv2d(6, 5, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), (3, 6, 8, 7)),
    "conv2d circular": (lambda: nn.Conv2d(6, 5, 3, padding=1, padding_mode="circular"), (3, 6, 7, 7)),
}
ADDED = {
    "nothing": (),
    "scale": ("channel_scale",),
    "branch": ("branch_down", "branch_up"),
    "both": ("channel_scale", "branch_down", "branch_up"),
}
layers = pytest.mark.parametrize("kind", LAYERS)
added = pytest.mark.parametrize("names", ADDED.values(), ids=ADDED)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def extras(layer: nn.Module, names: tuple[str, ...]) -> dict[str, Tensor]:
    weight: Tensor = layer.weight  # type: ignore[assignment]
    every = {
        "channel_scale": random(weight.shape[1], seed=1).exp(),
        "branch_down": random(RANK, *weight.shape[1:], seed=2),
        "branch_up": random(weight.shape[0], RANK, seed=3),
        "tuned": random(*weight.shape, seed=4),
    }
    return {name: every[name] for name in names}


def made(kind: str, names: tuple[str, ...], quantized: bool = True) -> tuple[nn.Module, Any, Tensor]:
    """A layer, its quantized twin with extras, and an input."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = LAYERS[kind][0]().double().requires_grad_(False)
    weight: Tensor = layer.weight  # type: ignore[assignment]
    step = (0.2 + random(len(weight)).abs() / 10).view(-1, *(1,) * (weight.dim() - 1))
    quantizers = (
        TensorQuantizer(Uniform(6), Static(torch.tensor(0.1).double(), 30.0), Nearest()),
        TensorQuantizer(Uniform(3), Static(step, torch.full_like(step, 4.0)), Nearest()),
    )
    twin = with_quantizers(layer, *quantizers)
    for quantizer in quantizers:
        quantizer.enabled = quantized
    for name, value in extras(layer, names).items():
        setattr(twin, name, value)
    return layer, twin, random(*LAYERS[kind][1], seed=5)


def transformed(layer: nn.Module, given: dict[str, Tensor]) -> Tensor:
    """W r - up down, entry by entry of the weight's first two dimensions."""
    weight: Tensor = layer.weight.clone()  # type: ignore[operator]
    for out in range(weight.shape[0]):
        for channel in range(weight.shape[1]):
            if "channel_scale" in given:
                weight[out, channel] *= given["channel_scale"][channel]
            if "branch_up" in given:
                for component in range(RANK):
                    weight[out, channel] -= (
                        given["branch_up"][out, component] * given["branch_down"][component, channel]
                    )
    return weight


def divided(kind: str, x: Tensor, given: dict[str, Tensor]) -> Tensor:
    """The input with its channels, dimension 1 or the last of a Linear, divided by r."""
    y = x.clone()
    if "channel_scale" in given:
        axis = -1 if kind.startswith("linear") else 1
        for channel, by in enumerate(given["channel_scale"]):
            y.select(axis, channel).div_(by)
    return y


def plain(layer: nn.Module, weight: Tensor, x: Tensor, bias: bool = True) -> Tensor:
    """What the layer gives with another weight, by torch's own layer."""
    tensors: dict[str, Tensor] = {"weight": weight}
    layer_bias = layer.bias
    if isinstance(layer_bias, Tensor):
        tensors["bias"] = layer_bias if bias else torch.zeros_like(layer_bias)
    result: Tensor = torch.func.functional_call(layer, tensors, (x,))
    return result


@layers
@added
def test_with_quantizers_off_it_is_the_plain_layer(kind: str, names: tuple[str, ...]) -> None:
    layer, twin, x = made(kind, names, quantized=False)
    expected = layer(x)
    output = twin(x)
    assert float((output - expected).abs().max()) <= 1e-12 * float(expected.abs().max())
    assert set(twin.extras()) == set(names) and (names != () or torch.equal(output, expected))


@layers
@added
def test_what_is_quantized_is_the_transformed_weight(kind: str, names: tuple[str, ...]) -> None:
    layer, twin, x = made(kind, names)
    tensors = extras(layer, names)
    latent = transformed(layer, tensors)
    weight, source = twin.weight_quantizer(latent), twin.weight_quantizer.scale
    by_hand = ((latent / source.scale).round() + 4).clamp(0, 7).sub(4) * source.scale
    assert torch.allclose(twin.quantized_weight(), by_hand, rtol=1e-12) and torch.allclose(weight, by_hand, rtol=1e-12)
    assert torch.allclose(twin.latent_weight(), latent, rtol=1e-12, atol=1e-12)
    low = divided(kind, x, tensors)
    expected = plain(layer, by_hand, twin.input_quantizer(low))
    if "branch_up" in tensors:
        product = torch.einsum("or,ri...->oi...", tensors["branch_up"], tensors["branch_down"])
        expected = expected + plain(layer, product, low, bias=False)  # the branch reads the input unquantized
    output = twin(x)
    assert float((output - expected).abs().max()) <= 1e-12 * float(expected.abs().max())
    assert not torch.allclose(output, layer(x), rtol=1e-3)


@layers
@pytest.mark.parametrize("names", [(*names, "tuned") for names in ADDED.values()], ids=ADDED)
def test_a_tuned_weight_stands_in_only_while_weights_are_quantized(kind: str, names: tuple[str, ...]) -> None:
    layer, twin, x = made(kind, names)
    tuned = extras(layer, names)["tuned"]
    assert torch.equal(twin.quantized_weight(), twin.weight_quantizer(tuned))
    assert twin.latent_weight() is twin.tuned
    twin.weight_quantizer.enabled = twin.input_quantizer.enabled = False
    assert torch.allclose(twin(x), layer(x), rtol=1e-11, atol=1e-12)
    assert torch.allclose(twin.quantized_weight(), transformed(layer, extras(layer, names[:-1])), rtol=1e-12)


def test_a_tuned_weight_is_not_used_by_a_layer_without_a_weight_quantizer() -> None:
    layer = nn.Linear(6, 5).double()
    twin: Any = with_quantizers(layer, FullPrecision(), FullPrecision())
    twin.tuned = random(5, 6)
    assert torch.equal(twin(random(2, 6)), layer(random(2, 6)))


@layers
@pytest.mark.parametrize("tuned", [False, True])
@added
def test_a_baked_weight_is_the_quantized_one(kind: str, names: tuple[str, ...], tuned: bool) -> None:
    layer, twin, x = made(kind, (*names, "tuned") if tuned else names)
    expected = twin(x)
    twin.bake()
    calls: list[int] = []
    twin.weight_quantizer.register_forward_pre_hook(lambda *_: calls.append(1))
    assert torch.equal(twin(x), expected) and not calls
    twin.weight_quantizer.enabled = twin.input_quantizer.enabled = False
    assert torch.allclose(twin(x), layer(x), rtol=1e-11, atol=1e-12)
    twin.bake()
    assert twin.baked is None


@layers
def test_a_scale_of_ones_and_a_branch_of_zeros_change_no_bit(kind: str) -> None:
    _, plain_twin, x = made(kind, ())
    _, twin, _ = made(kind, ADDED["both"])
    twin.channel_scale.fill_(1)
    twin.branch_up.fill_(0)
    assert torch.equal(twin(x), plain_twin(x))
    assert torch.equal(twin.quantized_weight(), plain_twin.quantized_weight())


def test_extras_follow_the_layer_and_are_in_no_state_dict() -> None:
    layer, twin, _ = made("conv2d", (*ADDED["both"], "tuned"))
    names = {name for name in twin.state_dict() if "_quantizer." not in name}
    assert names == set(layer.state_dict()) == {"weight", "bias"}
    twin.float()
    assert {value.dtype for value in twin.extras().values()} == {torch.float32} and len(twin.extras()) == 4


def test_the_weight_has_its_gradient_through_all_of_it() -> None:
    _, twin, x = made("conv2d", ADDED["both"])
    for name in ADDED["both"]:
        getattr(twin, name).requires_grad_()
    twin(x).square().sum().backward()
    assert all(bool(getattr(twin, name).grad.any()) for name in ADDED["both"])


CHANGED = {
    "conv_in": ADDED["scale"],
    "mid_block.resnets.0.conv1": ADDED["both"],
    "mid_block.attentions.0.to_q": ADDED["branch"],
    "up_blocks.1.resnets.0.conv_shortcut": ADDED["both"],  # which has two quantizers, side by side
    "down_blocks.0.downsamplers.0.conv": (*ADDED["scale"], "tuned"),
    "time_embedding.linear_1": ("tuned",),
}


def changed() -> Attached:
    """A network some of whose layers have extras."""
    attached = wrapped()
    for name, names in CHANGED.items():
        layer = attached.model.get_submodule(name)
        for extra, value in extras(layer, names).items():
            setattr(layer, extra, value)
    return attached


def test_in_a_network_they_change_only_what_is_quantized() -> None:
    attached, (sample, timestep) = changed(), data()
    before, after = network().state_dict(), attached.model.state_dict()
    assert [name for name in after if "_quantizer." not in name] == list(before)
    with quantizing(attached, weights=False, activations=False):
        estimate = QuantDenoiser(attached)(sample, timestep)
    assert torch.allclose(estimate, network()(sample, timestep).sample, rtol=0, atol=1e-10)
    assert not torch.allclose(QuantDenoiser(attached)(sample, timestep), QuantDenoiser(wrapped())(sample, timestep))


def test_they_go_through_the_stored_state_and_back() -> None:
    attached, other = changed(), wrapped()
    bake(other)
    stored = state(attached)
    count = sum(len(names) for names in CHANGED.values())
    assert len(extra_state(attached)) == count == 12 and len(stored) == 1 + 2 * 126 + count
    load_state(other, stored)
    assert all(layer.baked is None for layer in other.layers().values())
    again = state(other)
    assert list(again) == list(stored) and all(torch.equal(again[name], value) for name, value in stored.items())
    assert torch.equal(QuantDenoiser(other)(*data()), QuantDenoiser(attached)(*data()))


def test_what_was_not_stored_is_gone() -> None:
    attached, plain_one = changed(), wrapped()
    load_extra_state(attached, extra_state(plain_one))
    assert extra_state(attached) == {}
    attached = changed()
    load_state(attached, state(plain_one))
    assert torch.equal(QuantDenoiser(attached)(*data()), QuantDenoiser(plain_one)(*data()))


def test_the_state_of_extras_is_a_copy() -> None:
    attached = changed()
    for value in extra_state(attached).values():
        value.zero_()
    assert all(bool(value.any()) for value in extra_state(attached).values())


WRONG = [
    ("conv_between.channel_scale", torch.ones(2)),
    ("conv_in.channel_scales", torch.ones(2)),
    ("conv_in.weight", torch.ones(8, 2, 3, 3)),
    ("channel_scale", torch.ones(2)),
    ("conv_in.channel_scale", torch.ones(3)),
    ("conv_in.channel_scale", torch.ones(())),
    ("conv_in.channel_scale", torch.ones(2, 1, 1)),
    ("conv_in.branch_down", torch.ones(4, 2)),
    ("conv_in.branch_down", torch.ones(())),
    ("conv_in.branch_up", torch.ones(8)),
    ("conv_in.branch_up", torch.ones(2, 8)),
    ("conv_in.branch_up", torch.ones(8, 4, 1, 1)),
    ("conv_in.tuned", torch.ones(8, 2)),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_what_fits_no_layer_is_refused_and_changes_nothing(name: str, value: Tensor) -> None:
    attached = wrapped(fit=False)
    good = {"conv_out.tuned": torch.ones(2, 8, 3, 3)}
    with pytest.raises(ArtifactCorruptError, match="delete the artifact and run again") as caught:
        load_extra_state(attached, {**good, name: value})
    assert name in one_sentence(caught.value) and extra_state(attached) == {}
    load_extra_state(attached, good)
    assert list(extra_state(attached)) == ["conv_out.tuned"] and len(EXTRAS) == 4


def test_the_pieces_of_a_weight_are_what_is_quantized() -> None:
    attached = changed()
    weights: dict[str, list[Tensor]] = {}
    for path, _, piece, spec in attached.weight_pieces():
        weights.setdefault(path.partition(".weight_quantizer")[0], []).append(piece)
        assert spec.granularity == PerChannel() and not piece.requires_grad
    assert len(weights) == 51 and sum(map(len, weights.values())) == 55
    model = network()
    for name, pieces in weights.items():
        layer, names = model.get_submodule(name), CHANGED.get(name, ())
        tensors = extras(layer, names)
        expected = tensors.get("tuned", transformed(layer, tensors) if names else layer.weight)
        assert isinstance(expected, Tensor) and torch.allclose(torch.cat(pieces, 1), expected, rtol=1e-12, atol=1e-14)


def test_fitting_and_learned_rounding_see_the_transformed_weight() -> None:
    from dmq_cli.calib import fit_weights

    attached = changed()
    fit_weights(attached)
    fitted = 0
    for path, quantizer, piece, _ in attached.weight_pieces():
        flat = piece.flatten(1)
        width = flat.amax(1).clamp_min(0) - flat.amin(1).clamp_max(0)
        assert torch.allclose(quantizer.scale.scale.flatten(), width / 15, rtol=1e-12), path  # type: ignore[operator]
        quantizer.rounding = FixedRound(piece / quantizer.scale.scale % 1 > 0.5)  # type: ignore[operator]
        fitted += 1
    assert fitted == 55
    other = wrapped(fit=False)
    load_state(other, state(attached))
    assert torch.equal(QuantDenoiser(other)(*data()), QuantDenoiser(attached)(*data()))
    assert all(isinstance(layer, QuantMixin) for layer in other.layers().values())
