"""TCR against loops over single numbers, and on a network that it must not change."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.transform import NoTransform, Tcr, channel_maxima
from dmq_cli.transform.tcr import joint_scale
from dmq_cli.wrap import QuantDenoiser, attach, load_extra_state, load_state, state
from tests.tiny import TIMESTEPS, adapter, data, network, one_sentence, scheme
from tests.transform.toys import PLANTED, ToyAdapter, calibration, full, layer_error, planted, quantized


def table(seed: int, steps: int = 6, channels: int = 5) -> Tensor:
    """Ranges (T, C) over three decades, with zeros; channel 2 is zero throughout."""
    generator = torch.Generator().manual_seed(seed)
    ranges = torch.rand(steps, channels, generator=generator, dtype=torch.float64) * 10 ** torch.randint(
        -1, 2, (steps, channels), generator=generator
    )
    ranges[:, 2] = 0
    ranges[seed % steps, (seed + 3) % channels] = 0
    return ranges


def by_loop(rows: list[list[float]]) -> list[float]:
    scales = []
    for channel in range(len(rows[0])):
        above = below = 0.0
        for row in rows:
            m = row[channel]
            if m > 0:
                above += m * (m / min(value for value in row if value > 0))
                below += m
        scales.append(above / below if below else 1.0)
    return scales


@pytest.mark.parametrize("seed", range(12))
def test_the_joint_scale_is_that_of_a_loop(seed: int) -> None:
    rows = table(seed)
    expected = by_loop(rows.tolist())
    scales = joint_scale(rows)
    assert scales.tolist() == pytest.approx(expected, rel=1e-12)
    assert scales[2] == 1 and bool((scales >= 1).all()) and (scales > 1).sum() >= 3
    clamped = Tcr(clamp=3.0).scale(rows)
    assert clamped.tolist() == pytest.approx([min(value, 3.0) for value in expected], rel=1e-12)
    assert (clamped == 3).any()


def test_a_network_that_is_zero_everywhere_keeps_its_scale() -> None:
    assert torch.equal(joint_scale(torch.zeros(3, 4)), torch.ones(4, dtype=torch.float64))
    assert Tcr().scale(torch.ones(2, 3)).dtype == torch.float32


def test_timesteps_are_grouped_in_runs() -> None:
    rows = table(1, steps=7)
    runs = [rows[:3], rows[3:5], rows[5:]]
    by_hand = by_loop([run.amax(0).tolist() for run in runs])
    assert Tcr(groups=3, clamp=1e6).scale(rows).tolist() == pytest.approx(by_hand, rel=1e-12)
    each = Tcr(clamp=1e6).scale(rows)
    assert torch.equal(Tcr(groups=7, clamp=1e6).scale(rows), each) and torch.equal(
        Tcr(groups=99, clamp=1e6).scale(rows), each
    )
    assert not torch.equal(Tcr(groups=1, clamp=1e6).scale(rows), each)


def test_with_one_timestep_all_channels_get_the_range_of_the_least() -> None:
    rows = table(2, steps=1)
    rows = rows[:, rows[0] > 0]
    balanced = rows[0] / Tcr(clamp=1e6).scale(rows)
    assert torch.allclose(balanced, rows.min(), rtol=1e-12)


def test_a_late_spike_comes_down() -> None:
    """The supplement's reason to weigh timesteps by their range: a plain mean over them would be 10.9, and leave 9.2."""
    rows = torch.ones(10, 3, dtype=torch.float64)
    rows[9, 1] = 100
    spread = joint_scale(rows)
    assert spread[1].item() == pytest.approx((9 + 100 * 100) / 109)
    assert float((rows / spread).max()) < 1.1
    assert Tcr().scale(rows).tolist() == [1, 5, 1]


def test_the_scales_of_a_network_are_those_of_its_maxima() -> None:
    progress: list[int] = []
    scales = Tcr().estimate(adapter(), calibration, progress.append)
    names = [layer.name for layer in adapter().layers() if layer.role in ("resnet.conv1", "resnet.conv2")]
    assert list(scales) == [f"{name}.channel_scale" for name in names] and len(names) == 16 and progress == [3, 6, 8]
    maxima = channel_maxima(adapter(), calibration)
    for name in names:
        expected = [min(max(value, 1.0), 5.0) for value in by_loop(maxima[name][1].tolist())]
        assert scales[f"{name}.channel_scale"].tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("clamp", [1.5, 5.0, 1e6])
def test_full_precision_stays_what_it_was(clamp: float) -> None:
    scales = Tcr(clamp=clamp).estimate(adapter(), calibration)
    moved = torch.cat([value.flatten() for value in scales.values()])
    assert (moved > 1.01).float().mean() > 0.8 and float(moved.max()) <= clamp
    sample, timestep = data()
    expected = network()(sample, timestep).sample
    assert torch.allclose(full(quantized(adapter(), scales)), expected, rtol=0, atol=1e-10)


def test_every_layer_can_be_scaled_with_no_r_at_one() -> None:
    generator = torch.Generator().manual_seed(0)
    plain = adapter()
    scales = {
        f"{layer.name}.channel_scale": torch.rand(
            plain.model.get_parameter(f"{layer.name}.weight").shape[1], generator=generator, dtype=torch.float64
        )
        * 4
        + 1.01
        for layer in plain.layers()
    }
    sample, timestep = data()
    assert len(scales) == 51
    assert torch.allclose(full(quantized(plain, scales)), network()(sample, timestep).sample, rtol=0, atol=1e-10)


def test_four_bit_inputs_lose_less_where_one_channel_sticks_out() -> None:
    plain = layer_error(quantized(planted(), {}, weight=8, act=4), PLANTED)
    scaled = layer_error(
        quantized(planted(), Tcr(clamp=30.0).estimate(planted(), calibration), weight=8, act=4), PLANTED
    )
    assert scaled < plain / 3, (plain, scaled)


def test_the_state_carries_the_scales(tmp_path: Any) -> None:
    attached = quantized(adapter(), Tcr().estimate(adapter(), calibration))
    save_tensors(tmp_path / "x.safetensors", state(attached))
    other = attach(adapter(), scheme(act=4), TIMESTEPS)
    other.model.double()
    load_state(other, load_tensors(tmp_path / "x.safetensors"))
    assert torch.equal(QuantDenoiser(other)(*data()), QuantDenoiser(attached)(*data()))


def test_no_transform_is_none() -> None:
    def data() -> Any:
        raise AssertionError("asked for data")

    assert NoTransform().estimate(adapter(), data) == {}
    attached = attach(adapter(), scheme(), TIMESTEPS)
    load_extra_state(attached, {})
    assert all(layer.extras() == {} for layer in attached.layers().values())


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"clamp": 0.5}, "transform.clamp=0.5 is not possible"),
        ({"clamp": math.nan}, "transform.clamp=nan is not possible"),
        ({"clamp": math.inf}, "transform.clamp=inf is not possible"),
        ({"groups": 0}, "transform.groups=0 is not possible"),
        (
            {"match": "resnet.conv1|resnet.convolution"},
            "the pattern 'resnet.convolution', which fits no role. Did you mean",
        ),
        ({"match": ""}, "the pattern '', which fits no role"),
    ],
)
def test_options_that_cannot_be_are_told(options: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Tcr(**options)
    assert text in one_sentence(caught.value)


def test_a_model_without_such_layers_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        Tcr(match="edge.*|up.conv").estimate(ToyAdapter(), calibration)
    assert "transform.match=edge.*|up.conv fits none of the 3 layers" in one_sentence(caught.value)
