"""DAQ: the fits against scipy, planted laws, and the choice of a network whose attention was made to change."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.calib.daq import choose_by_likelihood, exponential_likelihood, likelihood_ratio, power_law_likelihood
from dmq_cli.errors import NumericsError
from dmq_cli.quant import ByLikelihood, Choice, TensorQuantizer
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, load_state, state
from tests.tiny import TIMESTEPS, batches, data, one_sentence, scheme, wrapped

DAQ = Rule("attn.prob", choice=ByLikelihood())


def power_law(exponent: float, x_min: float, num: int = 4000, seed: int = 0) -> Tensor:
    uniform = torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x_min * (1 - uniform) ** (-1 / (exponent - 1))


def exponential(rate: float, x_min: float, num: int = 4000, seed: int = 0) -> Tensor:
    uniform = torch.rand(num, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x_min - (1 - uniform).log() / rate


SAMPLES = [power_law(1.5, 1e-4), power_law(3.0, 0.2), exponential(40.0, 1e-3), exponential(2.0, 0.5)]


@pytest.mark.parametrize("x", SAMPLES)
@pytest.mark.parametrize("below", [1.0, 0.5])
def test_the_fits_are_scipys(x: Tensor, below: float) -> None:
    x_min, values = float(x.min()) * below, x.numpy()
    shape, _, _ = scipy.stats.pareto.fit(values, floc=0, fscale=x_min)
    exponent, likelihood = power_law_likelihood(x, x_min)
    assert exponent == pytest.approx(shape + 1, rel=1e-9)
    assert likelihood == pytest.approx(np.sum(scipy.stats.pareto.logpdf(values, exponent - 1, scale=x_min)), rel=1e-9)
    _, scale = scipy.stats.expon.fit(values, floc=x_min)
    rate, likelihood = exponential_likelihood(x, x_min)
    assert rate == pytest.approx(1 / scale, rel=1e-9)
    assert likelihood == pytest.approx(np.sum(scipy.stats.expon.logpdf(values, x_min, scale)), rel=1e-9)


@pytest.mark.parametrize("x", SAMPLES)
def test_no_other_parameter_is_likelier(x: Tensor) -> None:
    x_min, values = float(x.min()), x.numpy()
    exponent, best = power_law_likelihood(x, x_min)
    rate, best_exponential = exponential_likelihood(x, x_min)
    for factor in (0.9, 0.99, 1.01, 1.1):
        assert np.sum(scipy.stats.pareto.logpdf(values, (exponent - 1) * factor, scale=x_min)) < best
        assert np.sum(scipy.stats.expon.logpdf(values, x_min, 1 / (rate * factor))) < best_exponential
    for smaller in (0.5, 0.9):  # the least value is the likeliest threshold
        assert power_law_likelihood(x, x_min * smaller)[1] < best
        assert exponential_likelihood(x, x_min * smaller)[1] < best_exponential


def test_planted_parameters_are_found() -> None:
    assert power_law_likelihood(power_law(2.5, 0.01, 100_000), 0.01)[0] == pytest.approx(2.5, rel=0.02)
    assert exponential_likelihood(exponential(30.0, 0.01, 100_000), 0.01)[0] == pytest.approx(30.0, rel=0.02)


@pytest.mark.parametrize("seed", range(10))
def test_planted_laws_are_told_apart(seed: int) -> None:
    for x_min in (1e-6, 1e-2):
        for exponent in (1.5, 2.5):
            assert likelihood_ratio(power_law(exponent, x_min, 500, seed)) > 0
        for rate in (10.0, 300.0):
            assert likelihood_ratio(exponential(rate, x_min, 500, seed)) < 0


@pytest.mark.parametrize("x", SAMPLES)
def test_the_ratio_is_the_difference_of_the_likelihoods_and_has_no_unit(x: Tensor) -> None:
    x_min = float(x.min())
    difference = power_law_likelihood(x, x_min)[1] - exponential_likelihood(x, x_min)[1]
    assert likelihood_ratio(x) == pytest.approx(difference, rel=1e-9, abs=1e-6)
    assert likelihood_ratio(x * 1e-3) == pytest.approx(likelihood_ratio(x), rel=1e-6)
    assert likelihood_ratio(torch.cat([x, torch.zeros(9)])) == pytest.approx(likelihood_ratio(x), rel=1e-9)


def test_values_without_a_law_are_neither() -> None:
    for x in (torch.ones(7), torch.full((4, 3), 0.1), torch.tensor([0.3]), torch.zeros(3), torch.empty(0)):
        assert likelihood_ratio(x) == 0
    assert likelihood_ratio(torch.linspace(0.24, 0.26, 50)) < 0, "nearly equal values are not for powers of two"


def steered(factors: dict[int, float]) -> Attached:
    """The tiny network, in which queries are multiplied by a factor that depends on the step: 0.01 flat, 3000 peaked."""
    attached = wrapped(scheme(DAQ), fit=False)
    table = torch.tensor([factors[step] for step in range(4)], dtype=torch.float64)
    for name, layer in attached.model.named_modules():
        if name.endswith("to_q"):
            layer.register_forward_hook(lambda _m, _x, y: y * table[attached.context.step].view(-1, 1, 1))
    return attached


def probabilities(attached: Attached) -> dict[tuple[str, int], Tensor]:
    """(choice, step) -> every probability of that step, by plain hooks."""
    maps: dict[tuple[str, int], list[Tensor]] = {}

    def keep(name: str, value: Tensor) -> None:
        for row, step in zip(value, attached.context.step.tolist(), strict=True):
            maps.setdefault((name, step), []).append(row.flatten())

    hooks = [
        choice.parts[0].register_forward_pre_hook(lambda _m, x, name=name: keep(name, x[0]))
        for name, choice in attached.choices().items()
    ]
    fit_activations(attached, batches())
    for hook in hooks:
        hook.remove()
    return {place: torch.cat(rows) for place, rows in maps.items()}


PLANTED = {0: 0.01, 1: 3000.0, 2: 0.01, 3: 3000.0}


def test_a_network_takes_log2_where_its_attention_is_peaked(tmp_path: Path) -> None:
    attached = steered(PLANTED)
    fit_weights(attached)
    counts: list[int] = []
    choose_by_likelihood(attached, batches, counts.append)
    choices, probs = attached.choices(), probabilities(attached)
    assert counts == [4, 8] and len(choices) == 4 and len(probs) == 16
    for name, choice in choices.items():
        ratios = [likelihood_ratio(probs[name, step]) for step in range(4)]
        assert choice.choice.tolist() == [int(ratio > 0) for ratio in ratios] == [0, 1, 0, 1], ratios
        assert not choice._forward_pre_hooks
    save_tensors(tmp_path / "x.safetensors", state(attached))
    other = steered(PLANTED)
    load_state(other, load_tensors(tmp_path / "x.safetensors"))
    assert all(quantizer.choice.tolist() == [0, 1, 0, 1] for quantizer in other.choices().values())
    expected = QuantDenoiser(attached)(*data())
    assert torch.equal(QuantDenoiser(other)(*data()), expected)
    for quantizer in other.choices().values():
        quantizer.choice.zero_()
    assert not torch.equal(QuantDenoiser(other)(*data()), expected)


def test_batches_do_not_matter_and_skipped_steps_take_the_nearest() -> None:
    whole, single, some = (steered(PLANTED) for _ in range(3))
    choose_by_likelihood(whole, lambda: batches(8, 8))
    choose_by_likelihood(single, lambda: batches(8, 1))
    for name, choice in whole.choices().items():
        assert torch.equal(single.choices()[name].choice, choice.choice)
    sample, _ = data(2)
    choose_by_likelihood(some, lambda: [(sample, TIMESTEPS[[1, 2]])])
    assert all(choice.choice.tolist() == [1, 1, 0, 0] for choice in some.choices().values())


def test_other_networks_are_not_run() -> None:
    def never() -> Any:
        raise AssertionError("asked for data")

    choose_by_likelihood(wrapped(fit=False), never)


def test_a_choice_has_both_grids_fitted_and_is_kept_apart() -> None:
    attached = wrapped(scheme(DAQ))
    choices = attached.choices()
    assert len(choices) == 4 and all(isinstance(choice, Choice) for choice in choices.values())
    for choice in choices.values():
        scales = [float(part.scale.scale) for part in choice.parts if isinstance(part, TensorQuantizer)]  # type: ignore[arg-type]
        assert scales[0] == pytest.approx(scales[1] / 255) and 0 < scales[1] <= 1


def test_nothing_and_numbers_that_are_none_are_told() -> None:
    with pytest.raises(NumericsError, match=r"choice .* got no values") as nothing:
        choose_by_likelihood(wrapped(scheme(DAQ), fit=False), list)
    with pytest.raises(NumericsError, match="are not all finite") as nan:
        likelihood_ratio(torch.tensor([0.1, math.nan]))
    with pytest.raises(NumericsError, match="are not all finite"):
        likelihood_ratio(torch.tensor([0.1, math.inf]))
    assert one_sentence(nothing.value) and one_sentence(nan.value)
