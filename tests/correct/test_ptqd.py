"""What PTQD finds of the quantization error: planted effects, and the definitions in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.correct import Ptqd
from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import Denoiser
from dmq_cli.sampling import walk
from dmq_cli.stages.build import make
from dmq_cli.stages.prepare import prepare
from tests.correct import test_tac
from tests.correct.test_tac import DOUBLE, STEPS
from tests.test_conf import composed
from tests.tiny import one_sentence, scheduler

SHAPE = (3, 4, 4)
GAINS = torch.tensor([0.02, 0.1, 0.3, 0.0, 0.15], dtype=DOUBLE)
BIAS = torch.tensor([[0.05, -0.02, 0.0]], dtype=DOUBLE) * torch.arange(1.0, STEPS + 1, dtype=DOUBLE)[:, None]
NOISE = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.02], dtype=DOUBLE)


def full(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    """The same in every channel, so that a bias by channel does not look like a slope."""
    return torch.tanh(sample.mean(1, keepdim=True) * 1.5 + 0.1).expand_as(sample) + timestep.double() / 5000


class Planted:
    """(1 + k_t) eps + b_t[c] + s_t * gaussian, other noise at each call."""

    def __init__(self, gains: Tensor = GAINS, bias: Tensor = BIAS, noise: Tensor | None = None) -> None:
        self.gains, self.bias, self.noise = gains, bias, noise
        self.own = torch.Generator().manual_seed(7)
        self.calls = {int(t): call for call, t in enumerate(scheduler(STEPS).timesteps)}

    def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        call, eps = self.calls[int(timestep)], full(sample, timestep)
        prediction = (1 + self.gains[call]) * eps + self.bias[call][:, None, None]
        if self.noise is None:
            return prediction
        return prediction + self.noise[call] * torch.randn(sample.shape, generator=self.own, dtype=DOUBLE)


def ptqd(**changes: Any) -> Ptqd:
    return Ptqd(**{"seeds": "0-15", **changes})


def estimate(config: Ptqd, quantized: Denoiser, eta: float = 0.0, shape: tuple[int, ...] = SHAPE) -> dict[str, Tensor]:
    return config.estimate(full, quantized, scheduler(STEPS), shape, eta, DOUBLE)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_planted_gain_and_bias_are_found_exactly(eta: float) -> None:
    tables = estimate(ptqd(), Planted(), eta)
    assert {name: tuple(table.shape) for name, table in tables.items()} == {"slope": (STEPS,), "bias": (STEPS, 3), "std": (STEPS,)}  # fmt: skip
    assert torch.allclose(tables["slope"], GAINS, rtol=0, atol=1e-10)
    assert torch.allclose(tables["bias"], BIAS, rtol=0, atol=1e-10)
    assert float(tables["std"].max()) < 1e-10


def test_planted_noise_is_told_from_gain_and_bias() -> None:
    tables = estimate(ptqd(seeds="0-127"), Planted(noise=NOISE), shape=(3, 16, 16))
    pixels = 128 * 16 * 16
    deviation = NOISE / (3 * pixels) ** 0.5
    assert bool(((tables["std"] - NOISE).abs() < 5 * deviation).all())
    assert bool(((tables["bias"] - BIAS).abs() < 5 * NOISE[:, None] / pixels**0.5).all())
    assert bool(((tables["slope"] - GAINS).abs() < 20 * deviation).all())  # eps varies by 0.3 to 0.9
    assert float(deviation.max()) < 2e-3


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize("bias", ["residual", "raw"])
def test_the_definitions_in_numpy(bias: str, eta: float) -> None:
    """Along the full-precision trajectory, for a twin that rounds; eps and its error differ by channel."""
    plan, shape = scheduler(STEPS), test_tac.SHAPE
    tables = ptqd(bias=bias).estimate(test_tac.full, grown, plan, shape, eta, DOUBLE)
    for step in walk(test_tac.full, plan, range(16), shape, eta=eta, dtype=DOUBLE):
        eps = step.eps.numpy()
        error = grown(step.sample, torch.tensor([step.timestep])).numpy() - eps
        slope = np.polyfit(eps.ravel(), error.ravel(), 1)[0]
        residual = error - slope * eps
        assert slope > 0.05 and abs(np.cov(residual.ravel(), eps.ravel())[0, 1]) < 1e-12
        mean = residual.mean(axis=(0, 2, 3))
        left = np.concatenate([(residual[:, c] - mean[c]).ravel() for c in range(2)])
        assert float(tables["slope"][step.call]) == pytest.approx(slope, rel=1e-9)
        expected = mean if bias == "residual" else error.mean(axis=(0, 2, 3))
        assert np.allclose(tables["bias"][step.call].numpy(), expected, rtol=0, atol=1e-12)
        assert float(tables["std"][step.call]) == pytest.approx(np.sqrt((left**2).mean()), rel=1e-9)
    raw = ptqd(bias="raw").estimate(test_tac.full, grown, plan, shape, eta, DOUBLE)
    assert torch.equal(raw["std"], tables["std"]) and torch.allclose(raw["bias"], tables["bias"]) == (bias == "raw")


def grown(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    return (1.2 * test_tac.full(sample, timestep) * 4).round() / 4 + 0.05


def test_a_negative_slope_counts_as_none_and_correlation_can_be_left_out() -> None:
    shrunk = estimate(ptqd(), Planted(gains=-GAINS))
    assert not bool(shrunk["slope"].any()) and bool((shrunk["std"] > 0)[GAINS > 0].all())
    without = estimate(ptqd(correlation=False), Planted())
    assert not bool(without["slope"].any())
    raw = estimate(ptqd(correlation=False, bias="raw"), Planted())
    assert all(torch.equal(raw[name], without[name]) for name in raw)


def test_estimates_without_a_finite_slope_are_an_error() -> None:
    def broken(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return full(sample, timestep) * (torch.nan if int(timestep) == 400 else 1.1)

    with pytest.raises(NumericsError, match="quantization error at call 2 has no finite slope") as caught:
        estimate(ptqd(), broken)
    one_sentence(caught.value)
    with pytest.raises(NumericsError, match=r"at call 0 .* not constant"):
        ptqd().estimate(lambda x, _t, _c=None: torch.ones_like(x), broken, scheduler(STEPS), SHAPE, dtype=DOUBLE)


def test_progress_and_dtype() -> None:
    progress: list[tuple[int, int]] = []

    def single(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return full(sample, timestep).float()

    tables = ptqd().estimate(single, single, scheduler(STEPS), SHAPE, report=lambda *at: progress.append(at))
    assert progress == [(call + 1, STEPS) for call in range(STEPS)]
    assert all(table.dtype == torch.float32 and not bool(table.any()) for table in tables.values())


@pytest.mark.parametrize("change", [{"variance": "maybe"}, {"bias": "mean"}], ids=str)
def test_settings_that_cannot_be(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"is not known; use .* or ") as caught:
        ptqd(**change)
    assert next(iter(change)) in one_sentence(caught.value)


def test_variance_on_is_refused_without_noise_before_anything_is_computed() -> None:
    def never(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        raise AssertionError

    with pytest.raises(ConfigError, match=r"sampler\.eta=0\.0; use sampler=ddpm, or ddim with a positive") as caught:
        ptqd(variance="on").estimate(never, never, scheduler(STEPS), SHAPE)
    one_sentence(caught.value)
    ptqd(variance="on").check(0.1)
    ptqd(variance="auto").check(0.0)
    ptqd(variance="off").check(0.0)


def test_the_command_refuses_it_too() -> None:
    with pytest.raises(ConfigError, match=r"correct\.variance=on needs"):
        prepare(composed("method=ptqd", "recon=none", "correct.variance=on"))


def test_the_shipped_method() -> None:
    config = composed("method=ptqd")
    assert make(config["correct"]) == Ptqd("2000000-2000127")
    assert make(composed("method=ptqd", "correct.variance=on")["correct"]).variance == "on"
