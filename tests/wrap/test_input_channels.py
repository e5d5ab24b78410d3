"""A scale for each input channel of an activation: as a loop over channels, wherever a layer reads them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.errors import SchemeError
from dmq_cli.models import Site
from dmq_cli.ops import Ema, LpSearch, PerInputChannel
from dmq_cli.quant import PerStep, PerStepScale, Static, StepContext, TensorQuantizer
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, Spec
from dmq_cli.wrap.build import Maker
from tests.tiny import TIMESTEPS, adapter, data, network, one_sentence, scheme, wrapped

CHANNELS = Rule("*.input", granularity=PerInputChannel())
STEPS = Rule("*.input", scale=PerStepScale())


def by_channel(x: Tensor) -> Tensor:
    """(B, channels, n), written out for what layers of a UNet read."""
    axis = {2: 1, 3: 2, 4: 1}[x.ndim]
    return torch.stack([x.select(axis, channel).reshape(len(x), -1) for channel in range(x.shape[axis])], 1)


def watched() -> dict[str, Tensor]:
    """What every quantizer of an input sees on a plain copy of the network: (8, channels, n)."""
    inputs: dict[str, Tensor] = {}
    model = network()
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.register_forward_pre_hook(lambda _m, x, n=name: inputs.__setitem__(n, by_channel(x[0])))
    model(*data())
    pieces: dict[str, Tensor] = {}
    splits = adapter().skip_splits()
    for name, values in inputs.items():
        sizes = splits.get(name)
        parts = torch.split(values, list(sizes), 1) if sizes else [values]
        path = f"{name}.input_quantizer"
        pieces |= {f"{path}.parts.{n}" if sizes else path: part for n, part in enumerate(parts)}
    return pieces


@pytest.fixture(scope="module")
def seen() -> dict[str, Tensor]:
    return watched()


def scales_of(quantizer: TensorQuantizer) -> tuple[Tensor, Tensor]:
    assert isinstance(quantizer.scale, Static | PerStep)
    return quantizer.scale.scale.detach(), quantizer.scale.zero_point


def assert_covers(scale: Tensor, zero_point: Tensor, low: Tensor, high: Tensor) -> None:
    low, high = low.clamp(max=0), high.clamp(min=0)
    torch.testing.assert_close(scale, ((high - low) / 255).clamp_min(1e-8), rtol=1e-5, atol=0)
    torch.testing.assert_close(zero_point, -low / scale, rtol=0, atol=0.5001)


def test_every_channel_has_the_range_of_its_values(seen: dict[str, Tensor]) -> None:
    attached, shapes, compared = wrapped(scheme(CHANNELS)), set(), 0
    for name, quantizer in attached.quantizers("input").items():
        values = seen[name]
        scale, zero_point = scales_of(quantizer)
        for channel in range(values.shape[1]):
            channel_values = values[:, channel]
            assert_covers(
                scale[channel].squeeze(), zero_point[channel].squeeze(), channel_values.min(), channel_values.max()
            )
            compared += 1
        shapes.add(scale.ndim)
    assert set(seen) == set(attached.quantizers("input")) and len(seen) == 55 and shapes == {1, 3}
    assert compared == sum(values.shape[1] for values in seen.values()) > 700


def test_every_step_and_channel_has_the_range_of_its_values(seen: dict[str, Tensor]) -> None:
    attached, compared = wrapped(scheme(CHANNELS, STEPS)), 0
    _, timestep = data()
    for name, quantizer in attached.quantizers("input").items():
        scale, zero_point = scales_of(quantizer)
        assert scale.shape[:2] == (4, seen[name].shape[1])
        for step, at in enumerate(TIMESTEPS.tolist()):
            step_values = seen[name][timestep == at]
            low, high = step_values.amin((0, 2)), step_values.amax((0, 2))
            assert_covers(scale[step].flatten(), zero_point[step].flatten(), low, high)
            compared += 1
    assert compared == 55 * 4


@pytest.mark.parametrize("rules", [(CHANNELS,), (CHANNELS, STEPS)])
def test_quantizing_is_a_loop_over_channels_and_samples(seen: dict[str, Tensor], rules: tuple[Rule, ...]) -> None:
    attached = wrapped(scheme(*rules))
    inputs: dict[str, tuple[Tensor, Tensor]] = {}
    for name, quantizer in attached.quantizers("input").items():
        quantizer.register_forward_hook(lambda _m, x, y, n=name: inputs.__setitem__(n, (x[0], y)))
    sample, timestep = data()
    QuantDenoiser(attached)(sample, timestep)
    step = attached.grid(timestep)
    for name, (x, y) in inputs.items():
        scale, zero_point = scales_of(attached.quantizers()[name])
        rows, quantized = by_channel(x), by_channel(y)
        for channel in range(rows.shape[1]):
            per_sample = scale[step, channel] if len(rules) == 2 else scale[channel].expand(8, *scale.shape[1:])
            zero = zero_point[step, channel] if len(rules) == 2 else zero_point[channel].expand_as(per_sample)
            s, z = per_sample.reshape(8, 1), zero.reshape(8, 1)
            expected = ((rows[:, channel] / s).round() + z).clamp(0, 255).sub(z) * s
            assert torch.allclose(quantized[:, channel], expected, rtol=1e-12, atol=1e-14), name
    assert len(inputs) == len(seen) == 55


def equal_channels(attached: Attached, plain: Attached) -> None:
    for name, quantizer in attached.quantizers("input").items():
        for mine, shared in zip(scales_of(quantizer), scales_of(plain.quantizers()[name]), strict=True):
            mine.copy_(shared.expand_as(mine))


def test_equal_channels_are_one_scale_bit_for_bit() -> None:
    attached, plain = wrapped(scheme(CHANNELS)), wrapped()
    before = QuantDenoiser(attached)(*data())
    equal_channels(attached, plain)
    after = QuantDenoiser(plain)(*data())
    assert torch.equal(QuantDenoiser(attached)(*data()), after) and not torch.equal(before, after)


def test_channels_are_quantized_better_than_whole_tensors() -> None:
    errors = []
    exact = network()(*data()).sample
    for rules in ((CHANNELS,), ()):
        attached = wrapped(scheme(*rules, Rule("*.weight", bits=32), Rule("attn.[qkvp]*", bits=32), act=4))
        errors.append(float((QuantDenoiser(attached)(*data()) - exact).square().mean()))
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("make", [LpSearch, Ema])
def test_other_ranges_go_channel_by_channel_too(seen: dict[str, Tensor], make: Callable[[], LpSearch | Ema]) -> None:
    name = "mid_block.resnets.0.conv1.input_quantizer"
    attached = wrapped(scheme(CHANNELS, Rule("resnet.conv1.input", part="mid", ranges=make())))
    scale, _ = scales_of(attached.quantizers()[name])
    low, high = seen[name].amin((0, 2)).clamp(max=0), seen[name].amax((0, 2)).clamp(min=0)
    assert scale.shape == (16, 1, 1)
    share = scale.flatten() / ((high - low) / 255)
    assert bool((share <= 1 + 1e-6).all() and (share > 0.15).all()) and len(set(scale.flatten().tolist())) == 16


def maker(model: nn.Module) -> Maker:
    return Maker(model, {"part": (2, 4)}, StepContext(), TIMESTEPS)


def test_a_conv1d_is_refused() -> None:
    """Its inputs (B, C, N) cannot be told from tokens (B, N, C)."""
    model = nn.ModuleDict({"part": nn.Conv1d(6, 5, 1)})
    with pytest.raises(SchemeError, match=r"PerInputChannel at part\.input_quantizer, but \(B, C, N\)") as caught:
        maker(model).build(Site("part", "x", "input", "mid"), Spec(bits=8, granularity=PerInputChannel()))
    one_sentence(caught.value)


def test_halves_of_a_split_have_their_own_channels() -> None:
    model = nn.ModuleDict({"part": nn.Conv2d(6, 5, 1)})
    split = maker(model).build(Site("part", "x", "input", "up"), Spec(8, granularity=PerInputChannel(), split=True))
    shapes = [tuple(part.scale.scale.shape) for part in split.parts]  # type: ignore[union-attr]
    assert shapes == [(2, 1, 1), (4, 1, 1)]
