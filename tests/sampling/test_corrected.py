"""All samplers with TAC and PTQD: a row for every call, and noise that PTQD can steer or not."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch

from dmq_cli.correct import Ptqd, Tac, TacCorrection
from dmq_cli.errors import ConfigError
from dmq_cli.models import Denoiser
from dmq_cli.sampling import walk
from tests.sampling.exact import DOUBLE, SAMPLERS, SEEDS, SMALL, bent, end, exact, rounded, settings
from tests.tiny import one_sentence


def corrected(denoiser: Denoiser, correction: Any, plan: Any, eta: float = 0.0) -> list[Any]:
    return list(walk(denoiser, plan, SEEDS, SMALL, eta=eta, correction=correction, dtype=DOUBLE))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("alpha_one", [True, False])
def test_tac_has_a_row_for_every_call(name: str, alpha_one: bool) -> None:
    sampler = settings(name, 5, set_alpha_to_one=alpha_one)
    plan, config = exact(sampler), Tac("40-43", lambda2=0.0, k_threshold=1.0)
    estimate = partial(config.estimate, bent, scheduler=plan, shape=SMALL, eta=sampler.eta, dtype=DOUBLE)
    assert sampler.calls == len(plan.timesteps) == {"plms": 6, "dpmpp_2s": 10}.get(name, 5)
    same, other = estimate(bent), estimate(rounded)
    for tables in (same, other):
        assert tables["gain"].shape == (sampler.calls, 2) and tables["bias"].shape == (sampler.calls, *SMALL)
    assert bool(same["gain"].eq(1).all()) and not bool(same["bias"].any())
    assert bool(other["gain"].ne(1).any(1).all()) and bool(other["bias"][1:].flatten(1).any(1).all())
    plain, full = corrected(rounded, None, plan, sampler.eta), corrected(bent, None, plan, sampler.eta)
    steps = corrected(rounded, config.load(other), plan, sampler.eta)
    for step, reference in zip(steps, full, strict=True):  # its inputs have the right mean
        assert torch.allclose(step.sample.mean(0), reference.sample.mean(0), rtol=1e-9, atol=1e-9)
    assert (steps[-1].following - full[-1].following).norm() < 0.8 * (plain[-1].following - full[-1].following).norm()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_planted_gain_of_every_call_gives_the_full_precision_images(name: str) -> None:
    sampler = settings(name, 4)
    plan, planted = exact(sampler), torch.tensor([0.7, 1.4], dtype=DOUBLE)
    shrunk = lambda sample, timestep, cond=None: bent(sample, timestep) / planted[:, None, None]  # noqa: E731
    tac = TacCorrection(planted.expand(sampler.calls, 2), torch.zeros(sampler.calls, *SMALL, dtype=DOUBLE))
    expected = end(bent, plan, eta=sampler.eta)
    assert not torch.allclose(end(shrunk, plan, eta=sampler.eta), expected, atol=1e-2)
    assert torch.allclose(end(shrunk, plan, eta=sampler.eta, correction=tac), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", SAMPLERS)
def test_ptqd_s_variance_only_where_noise_can_make_room(name: str) -> None:
    sampler = settings(name, 4)
    plan, noisy = exact(sampler), name == "ddpm"
    if noisy:
        Ptqd("40-43", variance="on").check(sampler.eta)
    else:
        with pytest.raises(ConfigError, match=r"variance=on needs a sampler that adds noise") as caught:
            Ptqd("40-43", variance="on").check(sampler.eta)
        one_sentence(caught.value)
    auto, off = Ptqd("40-43"), Ptqd("40-43", variance="off")
    auto.check(sampler.eta)
    tables = auto.estimate(bent, rounded, plan, SMALL, sampler.eta, DOUBLE)
    assert tables["slope"].shape == (sampler.calls,) and bool((tables["std"] > 0).all())
    images = [corrected(rounded, config.load(tables), plan, sampler.eta)[-1].following for config in (auto, off)]
    assert torch.equal(*images) != noisy
