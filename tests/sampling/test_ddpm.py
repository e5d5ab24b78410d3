"""DDPM is DDIM with eta 1: its posterior with the small variance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from dmq_cli.sampling import Sampler
from tests.sampling.exact import ALPHAS, DOUBLE, exact
from tests.tiny import SCHEDULE

GENERATOR = np.random.default_rng(1)


@pytest.mark.parametrize("spacing", ["uniform", "quad", "trailing", "ldm", "linspace"])
def test_every_step_is_the_posterior_of_equations_6_and_7(spacing: str) -> None:
    """Ho et al.: mean of x_0 and x_t with their coefficients, variance beta~, beta of a step over several timesteps."""
    plan = exact(Sampler(20, spacing=spacing, eta=1.0))
    for timestep, before in plan.previous.items():
        now, to = ALPHAS[timestep], ALPHAS[before] if before >= 0 else 1.0
        beta = 1 - now / to
        x, eps, z = GENERATOR.normal(size=(3, 2, 5))
        clean = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
        mean = np.sqrt(to) * beta / (1 - now) * clean + np.sqrt(1 - beta) * (1 - to) / (1 - now) * x
        expected = mean + np.sqrt((1 - to) / (1 - now) * beta) * z
        sample, estimate, noise = map(torch.from_numpy, (x, eps, z))
        result = plan.step(estimate, timestep, sample, eta=1.0, noise=noise)
        assert np.allclose(result.numpy(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("steps", [4, 10, 100])
def test_diffusers_ddpm_scheduler(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = exact(Sampler(steps, eta=1.0))
    reference = DDPMScheduler(**SCHEDULE, clip_sample=False, variance_type="fixed_small")
    reference.alphas_cumprod, reference.one = torch.from_numpy(ALPHAS), torch.tensor(1.0, dtype=DOUBLE)
    reference.set_timesteps(steps)
    assert reference.timesteps.tolist() == plan.timesteps.tolist()
    for timestep in plan.timesteps.tolist():
        x, eps, z = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(timestep), dtype=DOUBLE)
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, z=z, **__: z)
        expected = reference.step(eps, timestep, x).prev_sample
        result = plan.step(eps, timestep, x, eta=1.0, noise=z)
        assert torch.allclose(result, expected, rtol=1e-10, atol=1e-10)
