"""UniPC of order 2 with B_2(h) = e^h - 1, predicting x_0."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from tests.sampling.exact import ALPHAS, DOUBLE, bent, bent_np, end, exact, level, plain, settings, start
from tests.tiny import SCHEDULE

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' set_timesteps


def phi(k: int, z: float) -> float:
    """phi_2 and phi_3 of exponential integrators."""
    return float((np.exp(z) - 1 - z - (z**2 / 2 if k == 3 else 0)) / z**k)


def moved(x: Any, clean: Any, now: Any, to: Any, differences: list[Any], weights: list[float]) -> Any:
    """Zhao et al., eq. 9 with data prediction: the part of first order and B(h) times the weighted differences."""
    b = np.exp(-(to[2] - now[2])) - 1
    rest = sum((w * d for w, d in zip(weights, differences, strict=True)), start=0 * x)
    return to[1] / now[1] * x - to[0] * b * clean - to[0] * b * rest


def published(x: Any, times: list[int]) -> Any:
    """Algorithms 5 to 8: predict with order 1, 2, ..., 2, 1 (UniP), and correct with the same order (UniC) once x' is evaluated."""
    levels = [level(a) for a in (*(ALPHAS[t] for t in times), 1.0)]
    clean: list[Any] = []
    before: Any = None
    for i, t in enumerate(times):
        alpha, sigma, lam = levels[i]
        denoised = (x - sigma * bent_np(x, t)) / alpha
        if i == 1:
            x = moved(before, clean[-1], levels[0], levels[1], [denoised - clean[-1]], [0.5])
        elif i > 1:
            h = lam - levels[i - 1][2]
            r, b = (levels[i - 2][2] - levels[i - 1][2]) / h, np.exp(-h) - 1
            right = [-h * phi(2, -h) / b, 2 * -h * phi(3, -h) / b]
            weights = np.linalg.solve(np.array([[1.0, 1.0], [r, 1.0]]), right).tolist()
            known = [(clean[-2] - clean[-1]) / r, denoised - clean[-1]]
            x = moved(before, clean[-1], levels[i - 1], levels[i], known, weights)
        clean, before = [*clean, denoised], x
        ahead, half = list[Any](), list[float]()
        if 0 < i < len(times) - 1:
            ahead, half = [(clean[-2] - denoised) / (levels[i - 1][2] - lam) * (levels[i + 1][2] - lam)], [0.5]
        x = moved(x, denoised, levels[i], levels[i + 1], ahead, half)
    return x


@pytest.mark.parametrize(("steps", "spacing"), [(1, "linspace"), (2, "linspace"), (3, "uniform"), (10, "trailing"), (20, "quad"), (20, "ldm")])  # fmt: skip
def test_the_walk_is_the_paper_s(steps: int, spacing: str) -> None:
    sampler = settings("unipc", steps, spacing=spacing)
    expected = published(start().numpy(), sampler.visited(1000))
    assert np.allclose(end(bent, exact(sampler)).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_diffusers_own_loop(steps: int, alpha_one: bool, spacing: str) -> None:
    final = "zero" if alpha_one else "sigma_min"
    reference = UniPCMultistepScheduler(**SCHEDULE, final_sigmas_type=final, timestep_spacing=spacing)
    plan = settings("unipc", steps, spacing=spacing, set_alpha_to_one=alpha_one).scheduler(SCHEDULE)
    for dtype in (DOUBLE, torch.float32):
        reference.set_timesteps(steps)
        assert torch.equal(end(bent, plan, dtype), plain(reference, dtype))


@pytest.mark.parametrize("steps", [4, 20])
def test_without_its_corrector_it_is_dpm_solver_2m(steps: int) -> None:
    plan = exact(settings("unipc", steps))
    plan.inner.disable_corrector = list(range(steps))
    assert torch.allclose(end(bent, plan), end(bent, exact(settings("dpmpp_2m", steps))), rtol=1e-10, atol=1e-10)
