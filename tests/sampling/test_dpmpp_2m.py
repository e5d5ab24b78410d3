"""DPM-Solver++(2M)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from dmq_cli.sampling import walk
from tests.sampling.exact import ALPHAS, DOUBLE, SEEDS, SMALL, bent, bent_np, end, exact, level, plain, settings, start
from tests.tiny import SCHEDULE

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' set_timesteps


def published(x: Any, times: list[int], alpha_one: bool) -> Any:
    """Lu et al., arXiv 2211.01095, Algorithm 2; first order where there is no earlier estimate and, as diffusers, at the end."""
    levels = [level(a) for a in (*(ALPHAS[t] for t in times), 1.0 if alpha_one else ALPHAS[0])]
    old: Any = None
    for i, t in enumerate(times):
        (alpha, sigma, lam), (alpha_to, sigma_to, lam_to) = levels[i], levels[i + 1]
        clean = (x - sigma * bent_np(x, t)) / alpha
        h, mixed = lam_to - lam, clean
        if i > 0 and not (i == len(times) - 1 and (alpha_one or len(times) < 15)):
            r = (lam - levels[i - 1][2]) / h
            mixed = (1 + 1 / (2 * r)) * clean - 1 / (2 * r) * old
        x, old = sigma_to / sigma * x - alpha_to * (np.exp(-h) - 1) * mixed, clean
    return x


@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize(
    ("steps", "spacing"), [(1, "linspace"), (2, "linspace"), (10, "uniform"), (14, "quad"), (30, "trailing"), (40, "linspace")]
)  # fmt: skip
def test_the_walk_is_algorithm_2(steps: int, spacing: str, alpha_one: bool) -> None:
    if spacing in ("uniform", "quad") and not alpha_one:
        spacing = "linspace"  # they end at timestep 0, from which there is no step left
    sampler = settings("dpmpp_2m", steps, spacing=spacing, set_alpha_to_one=alpha_one)
    expected = published(start().numpy(), sampler.visited(1000), alpha_one)
    assert np.allclose(end(bent, exact(sampler)).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_diffusers_own_loop(steps: int, alpha_one: bool, spacing: str) -> None:
    """In float32, which diffusers casts to, the same to the last bit."""
    final = "zero" if alpha_one else "sigma_min"
    reference = DPMSolverMultistepScheduler(**SCHEDULE, final_sigmas_type=final, timestep_spacing=spacing)
    reference.set_timesteps(steps)
    plan = settings("dpmpp_2m", steps, spacing=spacing, set_alpha_to_one=alpha_one).scheduler(SCHEDULE)
    assert torch.equal(end(bent, plan, torch.float32), plain(reference, torch.float32))
    reference.set_timesteps(steps)
    assert torch.allclose(end(bent, plan), plain(reference), rtol=1e-5, atol=1e-5)


def test_a_step_to_the_same_noise_changes_nothing() -> None:
    """uniform ends at timestep 0, and so does set_alpha_to_one=false."""
    plan = exact(settings("dpmpp_2m", 5, spacing="uniform", set_alpha_to_one=False))
    last = list(walk(bent, plan, SEEDS, SMALL, dtype=DOUBLE))[-1]
    assert last.timestep == 0 and torch.allclose(last.following, last.sample, rtol=1e-12, atol=1e-12)
