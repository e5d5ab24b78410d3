from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.errors import NumericsError
from dmq_cli.ops import LpSearch, PerChannel
from dmq_cli.quant import PerStep, PerStepScale, TensorQuantizer
from dmq_cli.wrap import Attached, Rule, bake, state
from tests.tiny import TIMESTEPS, batches, data, network, one_sentence, scheme, wrapped

PER_STEP = Rule("*.input", scale=PerStepScale())
SEARCHED = Rule("resnet.conv*.input", bits=4, ranges=LpSearch())


def table(quantizer: TensorQuantizer) -> tuple[Tensor, Tensor]:
    source = quantizer.scale
    return source.scale.detach(), source.zero_point  # type: ignore[operator, return-value]


def test_weights_cover_the_extremes_of_every_channel() -> None:
    attached = wrapped(fit=False)
    fit_weights(attached)
    pieces = list(attached.weight_pieces())
    assert len(pieces) == 55
    for _, quantizer, weight, _ in pieces:
        flat = weight.flatten(1)
        low, high = flat.min(1).values.clamp(max=0), flat.max(1).values.clamp(min=0)
        scale, zero_point = table(quantizer)
        assert scale.shape == (len(weight), *[1] * (weight.ndim - 1))
        assert torch.allclose(scale.flatten(), (high - low) / 15, rtol=1e-12)
        assert torch.equal(zero_point.flatten(), (-low / ((high - low) / 15)).round())
        assert bool(((quantizer(weight) - weight).abs() <= 0.5000001 * scale).all())


def test_fitting_again_drops_baked_weights() -> None:
    attached = wrapped()
    bake(attached)
    fit_weights(attached)
    assert all(layer.baked is None for layer in attached.layers().values())


def recorded(num: int = 8) -> dict[str, Tensor]:
    """Inputs of the layers of the network, watched on a plain copy, one value for each sample."""
    inputs: dict[str, Tensor] = {}
    model = network()
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            module.register_forward_pre_hook(lambda _m, x, name=name: inputs.__setitem__(name, x[0].flatten(1)))
    model(*data(num))
    return inputs


def test_activations_cover_the_extremes_that_hooks_see() -> None:
    attached, inputs = wrapped(), recorded()
    quantizers = attached.quantizers("input")
    assert len(quantizers) == 55 and len(inputs) == 51
    for name, values in inputs.items():
        pieces = {"": values}
        if (split := attached.adapter.skip_splits().get(name)) is not None:
            cut = values.shape[1] * split[0] // sum(split)
            pieces = {".parts.0": values[:, :cut], ".parts.1": values[:, cut:]}
        for part, piece in pieces.items():
            low, high = piece.min().clamp(max=0), piece.max().clamp(min=0)
            scale, zero_point = table(quantizers.pop(f"{name}.input_quantizer{part}"))
            assert torch.allclose(scale, ((high - low) / 255), rtol=1e-5) and scale.ndim == 0
            assert torch.allclose(zero_point, -low / scale, rtol=0, atol=0.5001)
    assert not quantizers


def test_attention_is_watched_although_it_is_fused() -> None:
    attached = wrapped(fit=False)
    probs: list[float] = []
    for quantizer in attached.quantizers("prob").values():
        quantizer.register_forward_pre_hook(lambda _m, x: probs.append(float(x[0].max())))
    fit_activations(attached, batches())
    assert len(probs) == 2 * 4
    for number, quantizer in enumerate(attached.quantizers("prob").values()):
        place = [0, 2, 3, 1][number]  # execution order is down, mid, up, up; model order is down, up, up, mid
        high = max(probs[place], probs[4 + place])
        assert float(table(quantizer)[0]) == pytest.approx(high / 255, rel=1e-5) and float(table(quantizer)[1]) == 0


def assert_same(one: Attached, other: Attached) -> None:
    left, right = state(one), state(other)
    assert list(left) == list(right)
    assert all(torch.allclose(left[k], right[k], rtol=1e-6) for k in left)


@pytest.mark.parametrize("rules", [(), (PER_STEP,), (SEARCHED,), (SEARCHED, PER_STEP)])
def test_the_batch_size_does_not_matter(rules: tuple[Rule, ...]) -> None:
    whole = wrapped(scheme(*rules), fit=False)
    fit_activations(whole, batches(size=8))
    for size in (1, 3):
        other = wrapped(scheme(*rules), fit=False)
        done: list[int] = []
        fit_activations(other, batches(size=size), done.append)
        assert_same(whole, other)
        assert done[-1] == 8 and done[0] == size


def test_every_step_gets_its_own_range() -> None:
    attached, inputs = wrapped(scheme(PER_STEP)), recorded()
    _, timestep = data()
    for name in (
        "conv_in",
        "mid_block.resnets.0.conv1",
        "time_embedding.linear_1",
        "up_blocks.0.attentions.0.to_q",
    ):
        quantizer = attached.quantizers()[f"{name}.input_quantizer"]
        assert isinstance(quantizer.scale, PerStep)
        for step, at in enumerate(TIMESTEPS.tolist()):
            values = (
                inputs[name][timestep == at] if "attentions" not in name else inputs[name].view(8, -1)[timestep == at]
            )
            width = values.max().clamp(min=0) - values.min().clamp(max=0)
            assert float(quantizer.scale.scale[step]) == pytest.approx(float(width) / 255, rel=1e-5)


def test_a_step_without_samples_takes_the_nearest_range() -> None:
    attached = wrapped(scheme(PER_STEP), fit=False)
    sample, timestep = data()
    mask = timestep != 500
    fit_activations(attached, [(sample[mask], timestep[mask])])
    full = wrapped(scheme(PER_STEP))
    for name, quantizer in attached.quantizers("input").items():
        expected = table(full.quantizers()[name])[0]
        assert torch.allclose(table(quantizer)[0], expected[[0, 0, 2, 3]])


def test_activations_that_are_not_finite() -> None:
    attached, (sample, timestep) = wrapped(fit=False), data()
    sample[3, 0, 0, 0] = torch.nan
    with pytest.raises(NumericsError, match=r"activations at conv_in\.input_quantizer have values that") as caught:
        fit_activations(attached, [(sample, timestep)])
    one_sentence(caught.value)
    assert not any(q._forward_pre_hooks for q in attached.quantizers().values())
    assert all(q.enabled for q in attached.quantizers().values())


def test_an_empty_calibration_set() -> None:
    with pytest.raises(NumericsError, match=r"quantizer .* got no values") as caught:
        fit_activations(wrapped(fit=False), [])
    one_sentence(caught.value)


def test_the_search_is_used_when_asked() -> None:
    search = Rule("*.[iw]*", bits=3, ranges=LpSearch(candidates=40, shrink=0.02))
    searched, plain = wrapped(scheme(search)), wrapped(scheme(Rule("*.[iw]*", bits=3)))
    smaller = 0
    for name, quantizer, weight, _ in searched.weight_pieces():
        other = plain.quantizers()[name]
        assert bool((table(quantizer)[0] <= table(other)[0] * (1 + 1e-12)).all())
        better = [((q(weight) - weight).abs() ** 2.4).flatten(1).sum(1) for q in (quantizer, other)]
        assert bool((better[0] <= better[1] * (1 + 1e-9)).all())
        smaller += int((table(quantizer)[0] < table(other)[0]).sum())
    assert smaller > 300
    pairs = [(table(q)[0], table(plain.quantizers()[n])[0]) for n, q in searched.quantizers("input").items()]
    assert len(pairs) == 55 and all(bool(a <= b * (1 + 1e-6)) for a, b in pairs)
    assert sum(bool(a < 0.95 * b) for a, b in pairs) > 20


def test_per_channel_weights_of_another_axis() -> None:
    attached = wrapped(scheme(Rule("resnet.conv1.weight", granularity=PerChannel(1))))
    scale = table(attached.quantizers()["mid_block.resnets.0.conv1.weight_quantizer"])[0]
    assert scale.shape == (1, 16, 1, 1)
