"""Searched ranges that are averaged over batches, against plain loops over numbers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.errors import ConfigError
from dmq_cli.ops import PerInputChannel, SearchedEma
from dmq_cli.quant import PerStep, PerStepScale, Static, Uniform
from dmq_cli.wrap import Attached, Rule, state
from tests.tiny import TIMESTEPS, batches, data, one_sentence, scheme, wrapped


def by_hand(values: list[float], bits: int, p: float = 2.4, candidates: int = 100) -> tuple[float, float]:
    """EDA-DM's one-dimensional search: thresholds 1 .. 100 % of the greatest magnitude on codes 0 .. 2^bits - 1."""
    reach, top = max(map(abs, values)), 2**bits - 1
    best, least = (0.0, 0.0), math.inf
    for i in range(1, candidates + 1):
        threshold = reach * (i / candidates)
        low = 0.0 if min(values) >= 0 else -threshold
        high = 0.0 if max(values) <= 0 else threshold
        scale = max((high - low) / top, 1e-8)
        zero = {True: 0, low < 0 < high: 2 ** (bits - 1), high == 0: top}[True]
        error = 0.0
        for x in values:
            code = min(max(round(x / scale) + zero, 0), top)
            error += abs((code - zero) * scale - x) ** p
        if error < least:
            best, least = (low, high), error
    return best


def numbers(num: int, seed: int, shift: float = 0.0) -> Tensor:
    """Mostly small ones and a few great ones, so that the best threshold is not the greatest magnitude."""
    normal = torch.randn(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return normal * normal.abs() + shift


@pytest.mark.parametrize("bits", [3, 4, 8])
@pytest.mark.parametrize("sign", ["both", "positive", "negative"])
def test_a_search_is_the_loop_over_a_hundred_thresholds(bits: int, sign: str) -> None:
    values = {"both": numbers(97, bits), "positive": numbers(97, bits).abs(), "negative": -numbers(97, bits).abs()}[
        sign
    ]
    low, high = SearchedEma().fit(values[None], Uniform(bits))
    wanted = by_hand(values.tolist(), bits)
    assert (float(low), float(high)) == pytest.approx(wanted, rel=1e-5, abs=0)
    assert bits == 8 or max(-wanted[0], wanted[1]) < float(values.abs().max()), "a search that finds something"


def test_rows_are_searched_by_themselves_and_share_what_sides_they_have() -> None:
    """As in the released code, a channel of one sign is symmetric all the same if another has both."""
    rows = torch.stack([numbers(60, 1), numbers(60, 2).abs()])
    low, high = SearchedEma().fit(rows, Uniform(4))
    assert (float(low[0]), float(high[0])) == pytest.approx(by_hand(rows[0].tolist(), 4), rel=1e-5)
    padded = [*rows[1].tolist(), -1e-300]  # which makes the loop search both sides
    assert (float(low[1]), float(high[1])) == pytest.approx(by_hand(padded, 4), rel=1e-5)


def test_zero_stands_in_the_middle_of_the_grid() -> None:
    grid = Uniform(4)
    scale, zero_point = grid.parameters(*SearchedEma().fit(numbers(500, 3)[None], grid))
    assert float(zero_point) == 8 and float(scale) > 0
    samples = numbers(600, 4).reshape(60, 10)
    for bits in (3, 4, 6, 8):
        middle = SearchedEma(batch=7).running(samples, samples.amin(1), samples.amax(1), Uniform(bits))
        assert float(Uniform(bits).parameters(*middle)[1]) == 2 ** (bits - 1)


def loop(samples: list[list[float]], bits: int, momentum: float, batch: int) -> tuple[float, float]:
    """m <- momentum m + (1 - momentum) x, over searched batches, whose ends come twice."""
    order = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0)).tolist()
    mean: tuple[float, float] | None = None
    for first in range(0, len(order), batch):
        together = [x for number in order[first : first + batch] for x in samples[number]]
        low, high = by_hand([*together, min(together), max(together)], bits)
        was = mean or (low, high)
        mean = momentum * was[0] + (1 - momentum) * low, momentum * was[1] + (1 - momentum) * high
    assert mean is not None
    return mean


@pytest.mark.parametrize(
    ("num", "momentum", "batch"), [(1, 0.9, 256), (5, 0.9, 2), (6, 0.5, 2), (7, 0.0, 3), (4, 0.9, 4)]
)
def test_ranges_of_batches_are_averaged(num: int, momentum: float, batch: int) -> None:
    samples = numbers(num * 20, num).reshape(num, 20)
    bounds = SearchedEma(momentum, batch).running(samples, samples.amin(1), samples.amax(1), Uniform(4))
    assert tuple(map(float, bounds)) == pytest.approx(loop(samples.tolist(), 4, momentum, batch), rel=1e-5)


def test_ends_that_were_not_kept_among_the_values_count() -> None:
    samples = numbers(80, 5).reshape(4, 20)
    low, high = samples.amin(1) - 1, samples.amax(1) + 9
    bounds = SearchedEma(batch=4).running(samples, low, high, Uniform(4))
    wanted = by_hand([*samples.flatten().tolist(), float(low.min()), float(high.max())], 4)
    assert tuple(map(float, bounds)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("wrong", [{"momentum": 1.0}, {"batch": 0}, {"p": 0.0}, {"candidates": 0}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="SearchedEma was asked for") as caught:
        SearchedEma(**wrong)  # type: ignore[arg-type]
    one_sentence(caught.value)


FEW = SearchedEma(0.8, 3, candidates=20)
RULES = [Rule("*.input", ranges=FEW), Rule("resnet.*.input", scale=PerStepScale())]


def source(attached: Attached, layer: str) -> Static | PerStep:
    scale = attached.quantizers()[f"{layer}.input_quantizer"].scale
    assert isinstance(scale, Static | PerStep)
    return scale


def test_calibration_searches_batches_of_samples_of_each_step() -> None:
    """The input of the first convolution is the sample itself; the first block's is watched at every step."""
    attached = wrapped(scheme(*RULES), fit=False)
    sample, timestep = data(8)
    inputs: list[Tensor] = []
    block = attached.model.get_submodule("down_blocks.0.resnets.0.conv1")
    hook = block.register_forward_pre_hook(lambda _m, x: inputs.append(x[0]))
    fit_activations(attached, [(sample, timestep)])
    hook.remove()

    def wanted(rows: Tensor) -> float:
        flat = rows.flatten(1)
        low, high = FEW.running(flat, flat.amin(1), flat.amax(1), Uniform(8))
        return float(high - low) / 255

    # Ends come twice where all values are kept: 2 of a thousand, so that the least error may be that of the next threshold.
    assert float(source(attached, "conv_in").scale) == pytest.approx(wanted(sample), rel=0.02)
    steps = source(attached, "down_blocks.0.resnets.0.conv1")
    for step, at in enumerate(TIMESTEPS.tolist()):
        assert float(steps.scale[step]) == pytest.approx(wanted(inputs[0][timestep == at]), rel=0.02)


def test_the_program_s_batch_size_changes_no_range() -> None:
    states = []
    for size in (8, 1, 3):
        rules = [Rule("*.input", ranges=FEW), Rule("edge.in.input", granularity=PerInputChannel())]
        attached = wrapped(scheme(*rules), fit=False)
        fit_activations(attached, batches(8, size))
        states.append(state(attached))
    for other in states[1:]:
        for name, value in other.items():
            torch.testing.assert_close(value, states[0][name], rtol=1e-9, atol=0)


def test_a_weight_is_searched_once() -> None:
    attached = wrapped(scheme(Rule("edge.in.weight", ranges=SearchedEma())), fit=False)
    fit_weights(attached)
    ((_, quantizer, weight, _),) = [row for row in attached.weight_pieces() if row[0].startswith("conv_in.")]
    assert isinstance(quantizer.scale, Static)
    scales = quantizer.scale.scale.flatten().tolist()
    for channel, scale in zip(weight.flatten(1).tolist(), scales, strict=True):
        low, high = by_hand(channel, 4)
        assert scale == pytest.approx((high - low) / 15, rel=1e-5)
