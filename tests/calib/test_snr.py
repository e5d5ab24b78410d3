"""PTQD's mixed precision: the choice of the tiny network against a loop over networks with one width each."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.calib.snr import choose_by_snr, fewest, forward_snr
from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.quant import ByLikelihood, BySnr
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, load_state, state
from tests.tiny import TIMESTEPS, batches, data, network, one_sentence, scheduler, scheme, wrapped

SITES = "resnet.*.input|attn.to_*.input|down.conv.input|up.conv.input"
WIDTHS = (2, 4, 8)


def mixed(widths: tuple[int, ...] = WIDTHS) -> Attached:
    return wrapped(scheme(Rule(SITES, choice=BySnr(widths)), weight=8, act=8))


def abar() -> Tensor:
    alphas: Tensor = scheduler().alphas_cumprod
    return alphas


def by_loop(bits: int) -> dict[int, float]:
    """SNR_Q of every step, of a network that knows no choices."""
    attached = wrapped(scheme(Rule(SITES, bits=bits), weight=8, act=8))
    plain, above, below = network(), dict.fromkeys(range(4), 0.0), dict.fromkeys(range(4), 0.0)
    for index in range(8):
        sample, timestep = data()[0][index : index + 1], data()[1][index : index + 1]
        step = TIMESTEPS.tolist().index(int(timestep))
        full, quantized = plain(sample, timestep).sample.flatten(), QuantDenoiser(attached)(sample, timestep).flatten()
        above[step] += math.fsum(value**2 for value in full.tolist())
        below[step] += math.fsum((a - b) ** 2 for a, b in zip(quantized.tolist(), full.tolist(), strict=True))
    return {step: above[step] / below[step] for step in range(4)}


@pytest.fixture(scope="module")
def ratios() -> dict[int, dict[int, float]]:
    return {bits: by_loop(bits) for bits in WIDTHS}


def smallest(ratios: dict[int, dict[int, float]], needed: list[float]) -> list[int]:
    """Which part (widest first) each step takes."""
    chosen = [min([b for b in WIDTHS if ratios[b][k] > needed[k]], default=max(WIDTHS)) for k in range(4)]
    return [sorted(WIDTHS, reverse=True).index(bits) for bits in chosen]


def test_the_choice_is_that_of_the_loop_for_the_real_schedule(ratios: dict[int, dict[int, float]]) -> None:
    attached = mixed()
    progress: list[int] = []
    choose_by_snr(attached, batches, abar(), progress.append)
    needed = [float(abar()[t] / (1 - abar()[t])) for t in TIMESTEPS.tolist()]
    assert forward_snr(abar(), TIMESTEPS).tolist() == pytest.approx(needed, rel=1e-5)
    expected = smallest(ratios, needed)
    assert len(attached.choices()) > 40 and progress == [4, 8]
    assert {tuple(choice.choice.tolist()) for choice in attached.choices().values()} == {tuple(expected)}
    assert expected == sorted(expected, reverse=True) and len(set(expected)) > 1, "fewer bits at the noisy end"


@pytest.mark.parametrize("picked", [(2, 4, 8, 8), (8, 8, 4, 2), (4, 2, 2, 8), (8, 2, 4, 4)])
def test_every_width_is_taken_just_where_it_is_enough(
    ratios: dict[int, dict[int, float]], picked: tuple[int, ...]
) -> None:
    """A made-up schedule whose SNR_F lies just below that of the width which should win, or above all of them."""
    assert all(ratios[2][k] < ratios[4][k] < ratios[8][k] for k in range(4))
    needed = [ratios[bits][k] * (2 if bits == 8 else 1 - 1e-6) for k, bits in enumerate(picked)]
    table = torch.zeros(1000, dtype=torch.float64)
    table[TIMESTEPS] = torch.tensor([snr / (1 + snr) for snr in needed], dtype=torch.float64)
    attached = mixed()
    choose_by_snr(attached, batches, table)
    expected = [sorted(WIDTHS, reverse=True).index(bits) for bits in picked]
    assert smallest(ratios, needed) == expected
    assert {tuple(choice.choice.tolist()) for choice in attached.choices().values()} == {tuple(expected)}


def test_the_network_then_computes_with_the_widths_of_its_steps() -> None:
    attached = mixed()
    choose_by_snr(attached, batches, abar())
    parts = next(iter(attached.choices().values())).choice.tolist()
    for step, timestep in enumerate(TIMESTEPS):
        bits = sorted(WIDTHS, reverse=True)[parts[step]]
        alone = wrapped(scheme(Rule(SITES, bits=bits), weight=8, act=8))
        sample = data(2)[0]
        assert torch.equal(
            QuantDenoiser(attached)(sample, timestep[None]), QuantDenoiser(alone)(sample, timestep[None])
        )
    other = wrapped(scheme(Rule(SITES, choice=BySnr(WIDTHS)), weight=8, act=8), fit=False)
    load_state(other, state(attached))
    assert torch.equal(QuantDenoiser(other)(*data()), QuantDenoiser(attached)(*data()))


def test_the_rule_takes_the_fewest_bits_that_are_enough_even_if_more_are_not() -> None:
    snr = torch.tensor([[9.0, 9.0, 1.0, 5.0, torch.inf], [8.0, 1.0, 1.0, 3.0, 2.0], [7.0, 1.0, 1.0, 4.0, 1.0]])
    needed = torch.tensor([5.0, 5.0, 5.0, 3.5, torch.inf])
    assert fewest(snr, needed).tolist() == [2, 0, 0, 2, 0]


def test_a_noiseless_timestep_needs_more_than_there_is() -> None:
    snr = forward_snr(torch.tensor([1.0, 0.5, 0.0]), torch.tensor([0, 1, 2]))
    assert snr.tolist() == [math.inf, 1.0, 0.0]


def test_skipped_steps_take_the_nearest_and_other_choices_stay(ratios: dict[int, dict[int, float]]) -> None:
    rules = scheme(Rule(SITES, choice=BySnr((4, 8))), Rule("attn.prob", choice=ByLikelihood()), weight=8, act=8)
    attached = wrapped(rules)
    prob = [choice for choice in attached.choices().values() if isinstance(choice.kind, ByLikelihood)]
    for choice in prob:
        choice.choice.copy_(torch.tensor([0, 1, 0, 1]))
    table = torch.zeros(1000)
    table[TIMESTEPS[2]] = 1.0
    choose_by_snr(attached, lambda: [(data(2)[0], TIMESTEPS[[1, 2]])], table)
    assert len(prob) == 4 and all(choice.choice.tolist() == [0, 1, 0, 1] for choice in prob)
    rest = [choice.choice.tolist() for choice in attached.choices().values() if isinstance(choice.kind, BySnr)]
    assert rest and all(indices == [1, 1, 0, 0] for indices in rest)


def test_networks_without_such_choices_are_not_run() -> None:
    def never() -> Any:
        raise AssertionError("asked for data")

    choose_by_snr(wrapped(fit=False), never, abar())


def test_two_sets_of_widths_and_no_samples_are_told() -> None:
    rules = scheme(Rule(SITES, choice=BySnr((4, 8))), Rule("up.conv.input", choice=BySnr((3, 8))))
    with pytest.raises(ConfigError) as caught:
        choose_by_snr(wrapped(rules, fit=False), batches, abar())
    assert "BySnr with bits [3, 8] and [4, 8]" in one_sentence(caught.value)
    with pytest.raises(NumericsError) as nothing:
        choose_by_snr(mixed(), list, abar())
    assert "got no values from the calibration set" in one_sentence(nothing.value)
