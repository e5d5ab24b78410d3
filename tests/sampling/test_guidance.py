"""Guidance against its formula, one call against two, and which half a correction sees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.models import Cond, InBatches, ModelDenoiser
from dmq_cli.sampling import UNGUIDED, Guide, Halves, Target, walk
from tests.families import COND_UNET, TOKENS, adapter
from tests.tiny import SHAPE, scheduler

NUM = 3
TIMES = (torch.tensor([500]), torch.tensor([750, 500, 0]))
WIDTHS = {"cond_unet": COND_UNET["cross_attention_dim"]}


class Told:
    """Conditions of a tiny network: seeded noise as tokens, or classes; none is the last class, or zeros."""

    def __init__(self, family: str) -> None:
        self.family = family

    def of(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        if self.family == "dit":
            return {"class_labels": torch.tensor([seed % 10 for seed in seeds])}
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        rows = [
            torch.randn(TOKENS, WIDTHS[self.family], generator=generator, dtype=torch.float64)
            for generator in generators
        ]
        return {"encoder_hidden_states": torch.stack(rows)}

    def none(self) -> dict[str, Tensor]:
        if self.family == "dit":
            return {"class_labels": torch.tensor([10])}
        return {"encoder_hidden_states": torch.zeros(1, TOKENS, WIDTHS[self.family], dtype=torch.float64)}

    def subjects(self, seeds: Sequence[int]) -> list[str]:
        return [str(seed) for seed in seeds]


def sample() -> Tensor:
    return torch.randn(NUM, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def direct(
    network: ModelDenoiser, told: Told, x: Tensor, timestep: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """eps_u, eps_c and the guided estimate, sample by sample."""
    times = timestep.expand(NUM)
    pairs = [
        [network(x[i : i + 1], times[i : i + 1], cond) for cond in (told.none(), told.of([i]))] for i in range(NUM)
    ]
    without, with_it = (torch.cat([pair[half] for pair in pairs]) for half in (0, 1))
    return without, with_it, without + scale * (with_it - without)


@pytest.mark.parametrize("timestep", TIMES, ids=["one", "each"])
@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("family", ["cond_unet", "dit"])
def test_the_guided_estimate(family: str, calls: int, timestep: Tensor) -> None:
    network, conditions, x = ModelDenoiser(adapter(family)), Told(family), sample()
    without, with_it, wanted = direct(network, conditions, x, timestep, 3.5)
    guide = Guide(conditions, 3.5, calls)
    torch.testing.assert_close(guide.around(network)(x, timestep, guide.cond(range(NUM))), wanted, rtol=0, atol=1e-12)
    both = Guide(conditions, 3.5, calls, "both")
    halves = both.around(network)(x, timestep, both.cond(range(NUM)))
    torch.testing.assert_close(halves, torch.cat([without, with_it], 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(both.join(halves), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("family", ["cond_unet", "dit"])
def test_one_call_and_two_give_the_same_images(family: str) -> None:
    network, images = ModelDenoiser(adapter(family)), []
    for calls in (1, 2):
        guide = Guide(Told(family), 2.0, calls)
        *_, last = walk(network, scheduler(), range(NUM), SHAPE, guide=guide, dtype=torch.float64)
        images.append(last.following)
    torch.testing.assert_close(images[0], images[1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("scale", "half"), [(0.0, 0), (1.0, 1)])
def test_the_ends_of_the_scale(scale: float, half: int) -> None:
    network, conditions, x = ModelDenoiser(adapter("cond_unet")), Told("cond_unet"), sample()
    guided = Guide(conditions, scale).around(network)(x, TIMES[0], conditions.of(range(NUM)))
    torch.testing.assert_close(guided, direct(network, conditions, x, TIMES[0], scale)[half], rtol=0, atol=1e-12)


def test_calls_of_the_network() -> None:
    sizes: list[int] = []

    def network(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        sizes.append(len(sample))
        return sample

    for calls, expected in ((1, [2 * NUM]), (2, [NUM, NUM])):
        sizes.clear()
        Halves(network, Told("dit").none(), calls)(sample(), TIMES[0], Told("dit").of(range(NUM)))
        assert sizes == expected


def test_without_guidance_the_condition_reaches_the_network() -> None:
    network, conditions, x = ModelDenoiser(adapter("cond_unet")), Told("cond_unet"), sample()
    guide = Guide(conditions)
    assert guide.around(network) is network and guide.none is None and not guide.halves
    step = next(walk(network, scheduler(), range(NUM), SHAPE, guide=guide, dtype=torch.float64))
    expected = direct(network, conditions, step.input, torch.tensor([step.timestep]), 1.0)[1]
    torch.testing.assert_close(step.eps, expected, rtol=0, atol=1e-12)
    assert x is not step.input


def test_unconditional_models_are_told_nothing() -> None:
    conditions: list[Cond] = []

    def network(sample: Tensor, timestep: Tensor, cond: Any = None) -> Tensor:
        conditions.append(cond)
        return sample * 0

    list(walk(network, scheduler(), range(2), SHAPE, guide=UNGUIDED))
    assert len(conditions) == 4 and all(condition is None for condition in conditions)


class Doubled:
    """A correction that doubles whatever it is given of the first C channels."""

    def pre(self, sample: Tensor, call: int) -> Tensor:
        return sample

    def post(self, eps: Tensor, call: int) -> Tensor:
        return torch.cat([2 * eps[:, : SHAPE[0]], eps[:, SHAPE[0] :]], 1)

    def variance(self, sigma: Tensor, noise_gain: Tensor, call: int) -> Tensor:
        return sigma


@pytest.mark.parametrize("target", ["guided", "uncond", "both"])
def test_what_a_correction_sees(target: Target) -> None:
    network, conditions = ModelDenoiser(adapter("cond_unet")), Told("cond_unet")
    guide = Guide(conditions, 3.0, target=target)
    assert guide.halves == (target != "guided")
    plan = scheduler()
    step = next(walk(network, plan, range(NUM), SHAPE, guide=guide, correction=Doubled(), dtype=torch.float64))
    without, with_it, guided = direct(network, conditions, step.input, torch.tensor([step.timestep]), 3.0)
    wanted = 2 * guided if target == "guided" else 2 * without + 3.0 * (with_it - 2 * without)
    torch.testing.assert_close(step.following, plan.step(wanted, step.timestep, step.sample), rtol=0, atol=1e-12)


@pytest.mark.parametrize("timestep", TIMES, ids=["one", "each"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_in_batches(size: int, timestep: Tensor) -> None:
    network, conditions, x = ModelDenoiser(adapter("cond_unet")), Told("cond_unet"), sample()
    sizes: list[int] = []

    def counted(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        sizes.append(len(sample))
        return network(sample, timestep, cond)

    guide = Guide(conditions, 2.0)
    guided = guide.around(InBatches(counted, size))(x, timestep, guide.cond(range(NUM)))
    torch.testing.assert_close(guided, direct(network, conditions, x, timestep, 2.0)[2], rtol=0, atol=1e-12)
    assert max(sizes) <= size and sum(sizes) == 2 * NUM
