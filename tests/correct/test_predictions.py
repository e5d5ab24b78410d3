"""Corrections see the noise estimate, whatever the network predicts: a planted error of the estimate is found and taken out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.correct import Ptqd, Tac
from dmq_cli.models import Denoiser, ModelDenoiser, Prediction, UNetAdapter
from dmq_cli.sampling import walk
from tests.sampling.exact import ALPHAS, DOUBLE, exact, settings
from tests.tiny import SCHEDULE, SHAPE, adapter, network

LEVELS = torch.from_numpy(ALPHAS)
GROWTH = 1.25
SEEDS, OTHERS = "0-5", range(20, 23)


class Erring(UNetAdapter):
    """The tiny UNet with an output whose noise estimate is GROWTH times as large, and a little more in every channel."""

    offset = torch.zeros(2, dtype=DOUBLE)

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        output, abar = super().predict(sample, timestep, cond), LEVELS[timestep].reshape(-1, 1, 1, 1)
        signal, level = abar.sqrt(), (1 - abar).sqrt()
        if self.prediction.kind == "sample":
            eps = GROWTH * (sample - signal * output) / level + self.offset[:, None, None]
            return (sample - level * eps) / signal
        eps = GROWTH * (signal * output + level * sample) + self.offset[:, None, None]
        return (eps - level * sample) / signal


def pair(kind: str, offset: float = 0.0) -> tuple[Denoiser, Denoiser]:
    full, erring = adapter(), Erring(network())
    full.prediction = erring.prediction = Prediction(kind, LEVELS)
    erring.offset = torch.tensor([offset, -offset], dtype=DOUBLE)
    return ModelDenoiser(full), ModelDenoiser(erring)


def final(denoiser: Denoiser, plan: Any, correction: Any = None) -> Tensor:
    return list(walk(denoiser, plan, OTHERS, SHAPE, dtype=DOUBLE, correction=correction))[-1].following


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "plms"])
def test_ptqd_finds_a_planted_error(name: str, kind: str) -> None:
    full, erring = pair(kind, 0.05)
    plan = exact(settings(name, 4), schedule={**SCHEDULE, "prediction_type": kind})
    config = Ptqd(SEEDS)
    tables = config.estimate(full, erring, plan, SHAPE, dtype=DOUBLE)
    assert torch.allclose(tables["slope"], torch.full_like(tables["slope"], GROWTH - 1), rtol=0, atol=0.05)
    eps = next(walk(full, plan, range(6), SHAPE, dtype=DOUBLE)).eps
    residual = (GROWTH - 1 - tables["slope"][0]) * eps.mean((0, 2, 3)) + torch.tensor([0.05, -0.05], dtype=DOUBLE)
    assert torch.allclose(tables["bias"][0], residual, rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "plms"])
def test_a_planted_gain_alone_is_undone_by_both(name: str, kind: str) -> None:
    full, erring = pair(kind)
    plan = exact(settings(name, 4), schedule={**SCHEDULE, "prediction_type": kind})
    expected, without = final(full, plan), final(erring, plan)
    assert not torch.allclose(expected, without, rtol=0, atol=1e-2)
    ptqd = Ptqd(SEEDS)
    tables = ptqd.estimate(full, erring, plan, SHAPE, dtype=DOUBLE)
    assert torch.allclose(tables["slope"], torch.full_like(tables["slope"], GROWTH - 1), rtol=0, atol=1e-9)
    assert torch.allclose(final(erring, plan, ptqd.load(tables)), expected, rtol=0, atol=1e-8)
    tac = Tac(SEEDS, lambda1=0.0, lambda2=0.0, k_threshold=0.0)
    tables = tac.estimate(full, erring, plan, SHAPE, dtype=DOUBLE)
    assert torch.allclose(tables["gain"], torch.full_like(tables["gain"], 1 / GROWTH), rtol=0, atol=1e-9)
    assert float(tables["bias"].abs().max()) < 1e-9
    assert torch.allclose(final(erring, plan, tac.load(tables)), expected, rtol=0, atol=1e-8)
