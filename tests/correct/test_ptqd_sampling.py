"""PTQD in use: gain, bias and variance taken out of a walk."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.correct import PtqdCorrection
from dmq_cli.models import Denoiser
from dmq_cli.sampling import Correction, batches, walk
from tests.correct.test_ptqd import BIAS, GAINS, NOISE, SHAPE, Planted, estimate, full, ptqd
from tests.correct.test_tac import DOUBLE, STEPS
from tests.sampling.test_ddim import double
from tests.tiny import scheduler

GENERATOR = np.random.default_rng(3)


def run(denoiser: Denoiser, correction: Correction | None = None, seeds: range = range(50, 55), eta: float = 0.0) -> Tensor:  # fmt: skip
    steps = walk(denoiser, scheduler(STEPS), seeds, SHAPE, eta=eta, correction=correction, dtype=DOUBLE)
    return list(steps)[-1].following


def tables(std: float | Tensor) -> dict[str, Tensor]:
    return {"slope": GAINS, "bias": BIAS, "std": torch.as_tensor(std, dtype=DOUBLE).expand(STEPS)}


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_planted_gain_and_bias_are_gone(eta: float) -> None:
    config = ptqd()
    correction = config.load(estimate(config, Planted(), eta))
    assert float((run(Planted(), eta=eta) - run(full, eta=eta)).abs().max()) > 0.1
    # sigma is made of the schedule's float32
    assert torch.allclose(run(Planted(), correction, eta=eta), run(full, eta=eta), rtol=0, atol=1e-6 if eta else 1e-10)


def test_the_tables_are_looked_up_by_call() -> None:
    correction, eps = ptqd().load(tables(0.0)), torch.randn(2, *SHAPE, dtype=DOUBLE)
    for call in range(STEPS):
        expected = (eps.numpy() - BIAS[call].numpy()[None, :, None, None]) / (1 + float(GAINS[call]))
        assert np.allclose(correction.post(eps, call).numpy(), expected, rtol=1e-13, atol=0)
        assert correction.pre(eps, call) is eps
    assert correction.post(eps.float(), 1).dtype == torch.float32


def published(x: Any, eps: Any, z: Any, now: float, to: float, eta: float, left: float) -> tuple[Any, float]:
    """One step from the corrected estimate with the calibrated variance, and the new sigma; left: std / (1 + k)."""
    sigma = eta * np.sqrt((1 - to) / (1 - now)) * np.sqrt(1 - now / to)
    c = abs(np.sqrt(1 - to - sigma**2) - np.sqrt(to * (1 - now) / now)) * left
    sigma = np.sqrt(sigma**2 - c**2) if c**2 < sigma**2 else 0.0
    clean = (x - np.sqrt(1 - now) * eps) / np.sqrt(now)
    return np.sqrt(to) * clean + np.sqrt(1 - to - sigma**2) * eps + sigma * z, sigma


@pytest.mark.parametrize(
    ("std", "eta", "without_noise"),
    [(0.0, 0.3, 1), (0.0, 1.0, 1), (0.04, 0.3, 2), (0.2, 1.0, 2), (0.9, 1.0, 5), (0.2, 0.0, 5)],
)
def test_one_step_is_the_published_one(std: float, eta: float, without_noise: int) -> None:
    plan, correction = double(scheduler(STEPS)), ptqd().load(tables(std))
    alphas, zeros = plan.alphas_cumprod.numpy(), 0
    for call, (timestep, before) in enumerate(plan.previous.items()):
        now, to = alphas[timestep], alphas[before] if before >= 0 else 1.0
        x, eps, z = GENERATOR.normal(size=(3, 2, *SHAPE))
        bias, slope = BIAS[call].numpy()[:, None, None], float(GAINS[call])
        expected, sigma = published(x, (eps - bias) / (1 + slope), z, now, to, eta, std / (1 + slope))
        zeros += sigma == 0
        post = correction.post(torch.from_numpy(eps), call)
        sample, noise, variance = torch.from_numpy(x), torch.from_numpy(z), partial(correction.variance, call=call)
        following = plan.step(post, timestep, sample, eta=eta, noise=noise, variance=variance)
        assert np.allclose(following.numpy(), expected, rtol=1e-12, atol=1e-12)
    assert zeros == without_noise


def test_more_residual_than_noise_leaves_no_noise() -> None:
    correction = PtqdCorrection(torch.tensor([1.0]), torch.zeros(1, 3), torch.tensor([0.5]))
    sigma = torch.tensor(0.25)
    for gain, left in ((0.0, 0.25), (0.6, 0.2), (1.0, 0.0), (4.0, 0.0)):  # std / (1 + k) = 0.25
        assert float(correction.variance(sigma, torch.tensor(gain), 0)) == pytest.approx(left, abs=1e-7)
    assert (
        PtqdCorrection(correction.slope, correction.bias, correction.std, False).variance(sigma, torch.tensor(4.0), 0)
        is sigma
    )


def test_off_keeps_sigma_and_without_noise_auto_is_off() -> None:
    auto, off = ptqd().load(tables(0.3)), ptqd(variance="off").load(tables(0.3))
    assert torch.equal(run(Planted(), auto), run(Planted(), off))
    assert not torch.equal(run(Planted(), auto, eta=1.0), run(Planted(), off, eta=1.0))
    on = ptqd(variance="on").load(tables(0.3))
    assert torch.equal(run(Planted(), auto, eta=1.0), run(Planted(), on, eta=1.0))


@pytest.mark.parametrize("call", range(1, STEPS - 1))
def test_the_variance_given_the_sample_is_full_precision_s(call: int) -> None:
    """Monte Carlo over the residual and the sampler's noise, from one x_t; see ptqd.py for what is missing to sigma^2."""
    plan, count = double(scheduler(STEPS)), 400_000
    timestep = int(plan.timesteps[call])
    now, to = (float(plan.alphas_cumprod[t]) for t in (timestep, plan.previous[timestep]))
    sigma = np.sqrt((1 - to) / (1 - now) * (1 - now / to))
    gain = abs(np.sqrt(1 - to - sigma**2) - np.sqrt(to * (1 - now) / now))
    std = 0.4 * sigma / gain * (1 + float(GAINS[call]))  # the residual makes up 16 % of the variance
    x, eps = torch.full((count, 1, 1, 1), 0.7, dtype=DOUBLE), torch.full((count, 1, 1, 1), 0.3, dtype=DOUBLE)
    generator = torch.Generator().manual_seed(call)
    error, z = torch.randn(2, count, 1, 1, 1, generator=generator, dtype=DOUBLE)
    estimated = (1 + GAINS[call]) * eps + BIAS[call][0] + std * error

    def variance(mode: str) -> float:
        correction = ptqd(variance=mode).load({**tables(std), "bias": BIAS[:, :1]})
        post = correction.post(estimated, call)
        following = plan.step(post, timestep, x, eta=1.0, noise=z, variance=partial(correction.variance, call=call))
        return float(following.var())

    spread = 5 * np.sqrt(2 / count) * sigma**2
    assert variance("off") == pytest.approx(1.16 * sigma**2, abs=2 * spread)
    assert variance("on") == pytest.approx(sigma**2, abs=0.05 * sigma**2)
    assert variance("on") < sigma**2 + spread


def test_an_image_does_not_depend_on_its_batch() -> None:
    correction = ptqd().load(tables(NOISE))
    whole = run(Planted(), correction, range(40, 47), eta=1.0)
    for size in (1, 3):
        parts = [run(Planted(), correction, batch, eta=1.0) for batch in batches(range(40, 47), size)]
        assert torch.equal(torch.cat(parts), whole)
