"""Euler steps in sigma."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import EulerDiscreteScheduler
from torch import Tensor

from dmq_cli.calib import Uniform, collect
from dmq_cli.correct import CorrectedDenoiser, Ptqd, TacCorrection
from dmq_cli.sampling import Sampler, walk
from dmq_cli.store.tensors import load_tensors
from tests.sampling.exact import ALPHAS, DOUBLE, SEEDS, SMALL, bent, bent_np, end, exact, plain, settings, start
from tests.tiny import SCHEDULE

LEVELS = np.sqrt((1 - ALPHAS) / ALPHAS)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' set_timesteps


@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("spacing", ["linspace", "uniform", "quad", "trailing", "ldm"])
def test_the_walk_is_algorithm_1_without_its_correction(spacing: str, alpha_one: bool) -> None:
    sampler = settings("euler", 10, spacing=spacing, set_alpha_to_one=alpha_one)
    plan, times = exact(sampler), sampler.visited(1000)
    sigmas = [*LEVELS[times], 0.0 if alpha_one else LEVELS[0]]
    x = start().numpy() * np.sqrt(1 + sigmas[0] ** 2)
    steps = list(walk(bent, plan, SEEDS, SMALL, dtype=DOUBLE))
    for step, t, sigma, to in zip(steps, times, sigmas[:-1], sigmas[1:], strict=True):
        assert np.allclose(step.sample.numpy(), x, rtol=1e-10, atol=1e-10)
        assert np.allclose(step.input.numpy(), x / np.sqrt(1 + sigma**2), rtol=1e-10, atol=1e-10)
        x = x + (to - sigma) * bent_np(x / np.sqrt(1 + sigma**2), t)
    assert np.allclose(step.following.numpy(), x, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("spacing", ["linspace", "uniform", "trailing"])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_it_is_ddim_on_the_same_timesteps(steps: int, spacing: str) -> None:
    plan, other = exact(settings("euler", steps, spacing=spacing)), exact(Sampler(steps, spacing=spacing))
    assert torch.allclose(end(bent, plan), end(bent, other), rtol=1e-10, atol=1e-10)
    first = next(walk(bent, plan, SEEDS, SMALL, dtype=DOUBLE))
    assert torch.allclose(first.input, start(), rtol=1e-12) and not torch.allclose(first.sample, start())


@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("steps", [1, 10, 50])
def test_diffusers_own_loop(steps: int, alpha_one: bool) -> None:
    """diffusers' steps are float32 whatever the sample is, and take a detour over x_0 that costs digits."""
    final = "zero" if alpha_one else "sigma_min"
    reference = EulerDiscreteScheduler(**SCHEDULE, final_sigmas_type=final, timestep_spacing="leading")
    reference.set_timesteps(steps)
    plan = settings("euler", steps, spacing="uniform", set_alpha_to_one=alpha_one).scheduler(SCHEDULE)
    assert plan.timesteps.dtype == torch.int64 and plan.timesteps.tolist() == reference.timesteps.tolist()
    assert torch.equal(plan.inner.sigmas, reference.sigmas)
    assert float(plan.init_noise_sigma) == float(reference.init_noise_sigma)
    assert torch.allclose(end(bent, plan, torch.float32), plain(reference, torch.float32), rtol=1e-4, atol=1e-4)


def test_a_corrected_denoiser_shifts_the_sampler_s_x() -> None:
    """Someone else's loop, which scales the input itself, reads what dmq's loop reads, in any order of timesteps."""
    plan, rng = exact(settings("euler", 4)), torch.Generator().manual_seed(3)
    gain, bias = 1 + torch.rand(4, 2, generator=rng, dtype=DOUBLE), torch.randn(4, *SMALL, generator=rng, dtype=DOUBLE)
    tac = TacCorrection(gain, bias)
    inputs: list[Tensor] = []

    def watched(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        inputs.append(sample)
        return bent(sample, timestep)

    steps = list(walk(bent, plan, SEEDS, SMALL, dtype=DOUBLE, correction=tac))
    corrected = CorrectedDenoiser(watched, tac, plan.timesteps, plan.scale_model_input)
    for step in reversed(steps):
        before = step.sample + bias[step.call]
        eps = corrected(plan.scale_model_input(before, step.timestep), torch.tensor([step.timestep]))
        assert torch.allclose(inputs[-1], step.input, rtol=0, atol=1e-6)  # the scale goes through float32
        assert torch.allclose(eps, step.eps, rtol=0, atol=1e-6)


def test_calibration_and_ptqd_see_what_the_network_reads(tmp_path: Path) -> None:
    plan, samples = settings("euler", 4).scheduler(SCHEDULE), []

    def watched(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        samples.append(sample)
        return bent(sample, timestep)

    inputs = torch.stack([step.input for step in walk(bent, plan, SEEDS, SMALL)])
    collect(Uniform("40-43", 4), bent, plan, SMALL, tmp_path)
    stored = load_tensors(tmp_path / "sample.safetensors")["data"]
    assert torch.equal(stored, inputs.transpose(0, 1).flatten(0, 1))
    Ptqd("40-43").estimate(bent, watched, plan, SMALL)
    assert torch.equal(torch.stack(samples), inputs)
