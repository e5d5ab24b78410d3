"""PLMS: Adams-Bashforth estimates in DDIM's step, after one step of Heun."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import PNDMScheduler

from tests.sampling.exact import ALPHAS, DOUBLE, bent, bent_np, end, exact, plain, settings, start
from tests.tiny import SCHEDULE


def transfer(x: Any, eps: Any, now: float, to: float) -> Any:
    """DDIM's step without noise."""
    return np.sqrt(to) * (x - np.sqrt(1 - now) * eps) / np.sqrt(now) + np.sqrt(1 - to) * eps


def published(x: Any, times: list[int], final: float) -> Any:
    """LDM's plms.py, p_sample_plms, from its description: what is mixed at each step."""
    ends, old = [*(ALPHAS[t] for t in times[1:]), final], list[Any]()
    for i, (t, to) in enumerate(zip(times, ends, strict=True)):
        eps = bent_np(x, t)
        if i == 0:
            mixed = (eps + bent_np(transfer(x, eps, ALPHAS[t], to), times[1])) / 2
        elif i == 1:
            mixed = (3 * eps - old[-1]) / 2
        elif i == 2:
            mixed = (23 * eps - 16 * old[-1] + 5 * old[-2]) / 12
        else:
            mixed = (55 * eps - 59 * old[-1] + 37 * old[-2] - 9 * old[-3]) / 24
        old.append(eps)
        x = transfer(x, mixed, ALPHAS[t], to)
    return x


@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize(
    ("steps", "spacing"), [(2, "uniform"), (3, "uniform"), (10, "quad"), (12, "trailing"), (11, "ldm"), (25, "uniform")]
)
def test_the_walk_is_ldm_s(steps: int, spacing: str, alpha_one: bool) -> None:
    sampler = settings("plms", steps, spacing=spacing, set_alpha_to_one=alpha_one)
    plan, times = exact(sampler), sampler.visited(1000)
    assert len(plan.timesteps) == len(times) + 1 and (sampler.calls == steps + 1)
    expected = published(start().numpy(), times, 1.0 if alpha_one else ALPHAS[0])
    assert np.allclose(end(bent, plan).numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spacing", ["uniform", "trailing"])
@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("steps", [4, 20, 50])
def test_diffusers_own_loop_where_the_stride_is_even(steps: int, alpha_one: bool, spacing: str) -> None:
    kind = {"uniform": "leading"}.get(spacing, spacing)
    reference = PNDMScheduler(**SCHEDULE, skip_prk_steps=True, set_alpha_to_one=alpha_one, timestep_spacing=kind)
    reference.set_timesteps(steps)
    plan = settings("plms", steps, spacing=spacing, set_alpha_to_one=alpha_one).scheduler(SCHEDULE)
    for dtype in (DOUBLE, torch.float32):
        assert torch.equal(end(bent, plan, dtype), plain(reference, dtype))
        reference.set_timesteps(steps)
