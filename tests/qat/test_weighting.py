"""How much each timestep counts: the formulas of Min-SNR, and that they mean the same of all kinds of prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import Prediction
from dmq_cli.qat import Settings
from dmq_cli.qat.problems import EQUAL, Batch, Weighting
from tests.qat.runs import run, trained_network, training

ABAR = torch.linspace(0.9999, 0.0001, 1000, dtype=torch.float64)
TIMESTEPS = torch.tensor([0, 100, 167, 500, 999])
GAMMA = 5.0


def drawn(seed: int) -> Tensor:
    return torch.randn(len(TIMESTEPS), 1, 4, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(target: Tensor) -> Batch:
    return Batch(drawn(0), TIMESTEPS, None, target)


def test_the_error_of_the_noise_counts_by_its_formula() -> None:
    target, prediction = drawn(1), drawn(2)
    expected = torch.zeros((), dtype=torch.float64)
    for row, timestep in enumerate(TIMESTEPS.tolist()):
        abar = float(ABAR[timestep])
        snr = abar / (1 - abar)
        expected += min(snr, GAMMA) / snr * (prediction[row] - target[row]).square().mean() / len(TIMESTEPS)
    loss = Weighting("epsilon", ABAR, GAMMA).loss(prediction, batch(target))
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=0)


def test_all_kinds_of_prediction_have_the_same_loss() -> None:
    """The same network, read as one that predicts noise, v or the sample."""
    clean, noise, estimate = drawn(3), drawn(4), drawn(5)
    abar = ABAR[TIMESTEPS].view(-1, 1, 1, 1)
    sample = abar.sqrt() * clean + (1 - abar).sqrt() * noise
    estimated_clean = (sample - (1 - abar).sqrt() * estimate) / abar.sqrt()
    losses = []
    for kind in ("epsilon", "v_prediction", "sample"):
        prediction = Prediction(kind, None if kind == "epsilon" else ABAR)
        right, answered = (prediction.target(x, e, TIMESTEPS) for x, e in ((clean, noise), (estimated_clean, estimate)))
        losses.append(float(Weighting(kind, ABAR, GAMMA).loss(answered, batch(right))))
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-9) and losses[0] > 0


def test_without_gamma_all_count_alike() -> None:
    target, prediction = drawn(1), drawn(2)
    plain = (prediction - target).square().mean()
    assert float(EQUAL.loss(prediction, batch(target))) == pytest.approx(float(plain), rel=1e-12)
    assert float(Weighting("sample", ABAR, 1e-30).loss(prediction, batch(target))) == pytest.approx(
        1e-30 * float(plain)
    )


def test_a_training_weighs_its_losses(tmp_path: Path) -> None:
    plain = run(training(2), trained_network(), tmp_path / "plain")
    weighed = run(training(2, min_snr=GAMMA), trained_network(), tmp_path / "weighed", alphas_cumprod=ABAR)
    assert weighed[0] < plain[0]


def test_what_is_not_possible_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"recon.settings.min_snr=0 is not possible"):
        Settings(min_snr=0)
    with pytest.raises(ConfigError, match=r"given no noise levels"):
        run(training(2, min_snr=GAMMA), trained_network(), tmp_path)
