"""DPM-Solver++(2S), as TAC's Algorithm 2 prints it, with its correction at both evaluations of a step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverSinglestepScheduler

from dmq_cli.correct import TacCorrection
from dmq_cli.errors import ConfigError
from tests.sampling.exact import ALPHAS, DOUBLE, SMALL, bent, bent_np, end, exact, level, plain, settings, start
from tests.tiny import SCHEDULE, one_sentence

INTERVALS = 6

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' set_timesteps


def first_order(x: Any, clean: Any, now: tuple[float, ...], to: tuple[float, ...]) -> Any:
    (_, sigma, lam), (alpha_to, sigma_to, lam_to) = now, to
    return sigma_to / sigma * x - alpha_to * (np.exp(-(lam_to - lam)) - 1) * clean


def algorithm_2(x: Any, times: list[int], gain: Any, bias: Any, alpha_one: bool) -> Any:
    """Lines 4 to 14; the input correction of eq. 23 before each evaluation, which the algorithm leaves out."""
    abar = [*(ALPHAS[t] for t in times), 1.0 if alpha_one else ALPHAS[0]]
    for i in range(0, len(times), 2):
        a, s, b = level(abar[i]), level(abar[i + 1]), level(abar[i + 2])
        x = x - bias[i]
        clean = (x - a[1] * gain[i] * bent_np(x, times[i])) / a[0]
        u = first_order(x, clean, a, s) - bias[i + 1]
        between = (u - s[1] * gain[i + 1] * bent_np(u, times[i + 1])) / s[0]
        if b[1] == 0:  # lambda is infinite: two steps of first order
            x = first_order(u, between, s, b)
            continue
        h, r = b[2] - a[2], (s[2] - a[2]) / (b[2] - a[2])
        x = b[1] / a[1] * x - b[0] * (np.exp(-h) - 1) * ((1 - 1 / (2 * r)) * clean + 1 / (2 * r) * between)
    return x


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("spacing", ["linspace", "uniform", "trailing", "quad"])
def test_the_walk_is_algorithm_2(spacing: str, alpha_one: bool, corrected: bool) -> None:
    sampler = settings("dpmpp_2s", INTERVALS, spacing=spacing, set_alpha_to_one=alpha_one)
    plan, times, calls = exact(sampler), sampler.visited(1000), 2 * INTERVALS
    assert plan.timesteps.tolist() == times and len(times) == sampler.calls == calls
    rng = np.random.default_rng(0)
    gain, bias = 1 + rng.normal(size=(calls, 2)) / 9, rng.normal(size=(calls, *SMALL)) / 9
    if not corrected:
        gain, bias = np.ones_like(gain), np.zeros_like(bias)
    tac = TacCorrection(torch.from_numpy(gain), torch.from_numpy(bias)) if corrected else None
    expected = algorithm_2(start().numpy(), times, gain[..., None, None], bias, alpha_one)
    assert np.allclose(end(bent, plan, correction=tac).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("intervals", [1, 2, 10, 50])
@pytest.mark.parametrize("alpha_one", [True, False])
def test_diffusers_own_loop_of_twice_as_many_steps(intervals: int, alpha_one: bool) -> None:
    final = "zero" if alpha_one else "sigma_min"
    reference = DPMSolverSinglestepScheduler(**SCHEDULE, final_sigmas_type=final, lower_order_final=alpha_one)
    plan = settings("dpmpp_2s", intervals, set_alpha_to_one=alpha_one).scheduler(SCHEDULE)
    for dtype in (DOUBLE, torch.float32):
        reference.set_timesteps(2 * intervals)
        assert torch.equal(end(bent, plan, dtype), plain(reference, dtype))


@pytest.mark.parametrize(("steps", "spacing", "match"), [
    (501, "linspace", r"num_inference_steps=501 does not fit a model of 1000 timesteps; use 1 to 500, as each step takes 2"),
    (49, "quad", r"num_inference_steps=49 with spacing=quad gives 95 different timesteps, which are no pairs"),
])  # fmt: skip
def test_intervals_that_cannot_be(steps: int, spacing: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match) as caught:
        settings("dpmpp_2s", steps, spacing=spacing).scheduler(SCHEDULE)
    one_sentence(caught.value)
