from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from dmq_cli.errors import ConfigError
from dmq_cli.sampling import DDIM, Sampler
from tests.tiny import SCHEDULE, one_sentence, scheduler

BETAS = np.linspace(1e-4, 0.02, 1000)
ALPHAS = np.cumprod(1 - BETAS)  # alpha of arXiv 2010.02502, which is alpha bar of DDPM
GENERATOR = np.random.default_rng(0)


def double(found: DDIM) -> DDIM:
    """With the exact noise schedule; diffusers keeps it in float32."""
    assert np.allclose(found.alphas_cumprod.numpy(), ALPHAS, rtol=1e-4)
    found.alphas_cumprod = torch.from_numpy(ALPHAS)
    alpha_one = found.config.set_alpha_to_one
    found.final_alpha_cumprod = torch.tensor(1.0 if alpha_one else ALPHAS[0], dtype=torch.float64)
    return found


def times(steps: int, spacing: str) -> list[int]:
    if spacing == "uniform":
        return [1000 // steps * i for i in range(steps)][::-1]
    return [int(np.floor((np.sqrt(800) * i / (steps - 1)) ** 2 + 1e-9)) for i in range(steps)][::-1]


def formula(
    x: np.ndarray[Any, Any],
    eps: np.ndarray[Any, Any],
    z: np.ndarray[Any, Any],
    now: float,
    to: float,
    eta: float,
) -> np.ndarray[Any, Any]:
    """Eq. 12, with sigma of eq. 16."""
    sigma = eta * np.sqrt((1 - to) / (1 - now)) * np.sqrt(1 - now / to)
    predicted = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
    result: np.ndarray[Any, Any] = np.sqrt(to) * predicted + np.sqrt(1 - to - sigma**2) * eps + sigma * z
    return result


@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(
    ("spacing", "steps"), [("uniform", 10), ("uniform", 7), ("quad", 10), ("quad", 2), ("uniform", 1)]
)
def test_every_step_is_equation_12(spacing: str, steps: int, eta: float, alpha_one: bool) -> None:
    plan = double(scheduler(steps, spacing=spacing, set_alpha_to_one=alpha_one))
    expected = times(steps, spacing)
    # the square of the last point of linspace may fall just under 800, as in the authors' code
    assert plan.timesteps.tolist()[1:] == expected[1:] and plan.timesteps[0] in (
        expected[0],
        expected[0] - 1,
    )
    visited = plan.timesteps.tolist()
    ends = [*(ALPHAS[t] for t in visited[1:]), 1.0 if alpha_one else ALPHAS[0]]
    for timestep, to in zip(visited, ends, strict=True):
        x, eps, z = GENERATOR.normal(size=(3, 2, 5))
        estimate, sample, noise = map_torch(eps, x, z)
        following = plan.step(estimate, timestep, sample, eta=eta, noise=noise)
        assert following.dtype == torch.float64
        assert np.allclose(following.numpy(), formula(x, eps, z, ALPHAS[timestep], to, eta), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_sigma_can_be_replaced(eta: float) -> None:
    """The step asks with its sigma and with the slope of its result in the estimate, and uses the answer twice."""
    plan = double(scheduler(6))
    for timestep, before in zip(plan.timesteps.tolist(), plan.previous.values(), strict=True):
        now, to = ALPHAS[timestep], ALPHAS[before] if before >= 0 else 1.0
        x, eps, z = GENERATOR.normal(size=(3, 2, 5))
        estimate, sample, noise = map_torch(eps, x, z)
        calls: list[tuple[float, float]] = []

        def half(sigma: torch.Tensor, gain: torch.Tensor, calls: list[tuple[float, float]] = calls) -> torch.Tensor:
            calls.append((float(sigma), float(gain)))
            return sigma / 2

        following = plan.step(estimate, timestep, sample, eta=eta, noise=noise, variance=half)
        assert np.allclose(following.numpy(), formula(x, eps, z, now, to, eta / 2), rtol=1e-12, atol=1e-12)
        sigma = eta * np.sqrt((1 - to) / (1 - now) * (1 - now / to))
        slope = formula(x, eps + 1, z, now, to, eta) - formula(x, eps, z, now, to, eta)
        assert len(calls) == 1
        assert np.allclose(calls[0], (sigma, np.abs(slope).mean()), rtol=1e-9, atol=1e-14)
        same = plan.step(estimate, timestep, sample, eta=eta, noise=noise, variance=lambda sigma, _: sigma)
        assert torch.equal(same, plan.step(estimate, timestep, sample, eta=eta, noise=noise))


def map_torch(*arrays: np.ndarray[Any, Any]) -> list[torch.Tensor]:
    return [torch.from_numpy(array) for array in arrays]


def test_the_last_step_ends_at_the_clean_image() -> None:
    x, eps = map_torch(*GENERATOR.normal(size=(2, 3, 4)))
    plan = double(scheduler(4, spacing="quad"))
    clean = (x - np.sqrt(1 - ALPHAS[0]) * eps) / np.sqrt(ALPHAS[0])
    assert torch.allclose(plan.step(eps, 0, x, eta=1.0, noise=eps * 1e9), clean, rtol=1e-12)
    other = double(scheduler(4, spacing="quad", set_alpha_to_one=False))
    assert torch.allclose(other.step(eps, 0, x), x, rtol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("alpha_one", [True, False])
@pytest.mark.parametrize("clip", [True, False])
def test_diffusers_own_scheduler_where_the_stride_is_even(eta: float, alpha_one: bool, clip: bool) -> None:
    from diffusers import DDIMScheduler

    reference = DDIMScheduler(**SCHEDULE, clip_sample=clip, set_alpha_to_one=alpha_one)
    reference.set_timesteps(20)
    plan = scheduler(20, set_alpha_to_one=alpha_one, clip_sample=clip)
    assert plan.timesteps.tolist() == reference.timesteps.tolist()
    for timestep in plan.timesteps.tolist():
        x, eps, z = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(timestep))
        expected = reference.step(eps, timestep, x, eta=eta, variance_noise=z if eta else None).prev_sample
        following = plan.step(eps, timestep, x, eta=eta, noise=z)
        # clipped, diffusers still takes the estimate as it was given, like this scheduler
        assert torch.allclose(following, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("steps", "spacing"), [(0, "uniform"), (-3, "uniform"), (1001, "uniform"), (0, "quad")])
def test_step_counts_that_cannot_be(steps: int, spacing: str) -> None:
    with pytest.raises(ConfigError, match=rf"num_inference_steps={steps} does not fit a model of 1000") as caught:
        scheduler(steps, spacing=spacing)
    one_sentence(caught.value)


def test_quad_leaves_out_steps_that_go_nowhere() -> None:
    """The authors' 100 quadratic steps visit t = 0 four times; a step from t to t changes nothing at eta 0."""
    listed = [int(t) for t in np.linspace(0, np.sqrt(800), 100) ** 2]
    plan = scheduler(100, spacing="quad")
    assert listed.count(0) == 4 and plan.timesteps.tolist() == sorted(set(listed), reverse=True)
    assert plan.num_inference_steps == len(set(listed)) < 100


@pytest.mark.parametrize("spacing", ["uniform", "quad"])
def test_step_counts_that_can(spacing: str) -> None:
    most = {"uniform": 1000, "quad": 29}[spacing]
    for steps in (1, 2, most):
        visited = scheduler(steps, spacing=spacing).timesteps.tolist()
        assert len(set(visited)) == steps and visited == sorted(visited, reverse=True) and 0 <= visited[0] < 1000


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ConfigError, match="spacing=cubic is not known; use uniform, quad, trailing, ldm or linspace"):
        scheduler(5, spacing="cubic")
    for eta in (-0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"sampler\.eta=.* is not possible"):
            Sampler(5, eta=eta)


def test_the_model_s_own_noise_schedule_is_used() -> None:
    betas = [0.1, 0.2, 0.3, 0.4]
    plan = Sampler(2).scheduler(
        {"num_train_timesteps": 4, "trained_betas": betas, "clip_sample": True, "_class_name": "X"}
    )
    assert np.allclose(plan.alphas_cumprod.numpy(), np.cumprod(1 - np.array(betas)))
    assert plan.timesteps.tolist() == [2, 0] and not plan.config.clip_sample
