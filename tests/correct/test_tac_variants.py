"""Appendix B of TAC, correcting the mean of the estimate, and the shipped variants."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.correct import Tac, TacCorrection, solve_gain
from dmq_cli.sampling import Correction, walk
from dmq_cli.stages.build import make
from tests.correct.test_tac import DOUBLE, SHAPE, STEPS, estimate, full, rounded, run, tac
from tests.test_conf import composed
from tests.tiny import scheduler

SHIFT = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=DOUBLE) / 10


def shifted(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    """A twin whose every estimate has the same error."""
    return full(sample, timestep) + SHIFT


@pytest.mark.parametrize("ner", [True, False])
def test_a_planted_bias_of_the_estimate_is_removed(ner: bool) -> None:
    config = tac(noise_bias=True, ibc=False, ner=ner)
    tables = estimate(config, shifted)
    assert torch.allclose(tables["noise_bias"], SHIFT.expand(STEPS, *SHAPE), rtol=0, atol=1e-12)
    assert torch.allclose(tables["gain"], torch.ones(STEPS, 2, dtype=DOUBLE), rtol=0, atol=1e-12)
    assert not bool(tables["bias"].any())
    assert float((run(shifted) - run(full)).abs().max()) > 0.01
    assert torch.allclose(run(shifted, config.load(tables)), run(full), rtol=0, atol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize(("ner", "ibc", "aware"), [(1, 0, 1), (0, 0, 1), (1, 1, 1), (1, 0, 0)])
def test_the_bias_is_solved_on_the_corrected_trajectory_before_the_gain(
    ner: int, ibc: int, aware: int, eta: float
) -> None:
    config = tac(noise_bias=True, ner=bool(ner), ibc=bool(ibc), timestep_aware=bool(aware))
    tables = estimate(config, eta=eta)
    correction = config.load(tables)
    plan = scheduler(STEPS)
    reference = list(walk(full, plan, range(7), SHAPE, eta=eta, dtype=DOUBLE))
    solved = 0
    for step, other in zip(walk(rounded, plan, range(7), SHAPE, eta=eta, correction=correction, dtype=DOUBLE), reference, strict=True):  # fmt: skip
        estimated = rounded(step.sample, torch.tensor([step.timestep]))
        bias, gain = torch.zeros(SHAPE, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)
        if aware or step.call == 0:
            bias = (estimated - other.eps).mean(0)
            gain = solve_gain(config, estimated - bias, other.eps) if ner else gain
            solved += 1
        assert torch.allclose(tables["noise_bias"][step.call], bias, rtol=0, atol=1e-12)
        assert torch.allclose(tables["gain"][step.call], gain, rtol=1e-12)
        assert torch.allclose(step.eps, (estimated - bias) * gain[:, None, None], rtol=0, atol=1e-12)
    assert solved == (STEPS if aware else 1)


def test_switched_off_there_is_no_table_and_no_difference() -> None:
    tables = estimate(tac(noise_bias=False))
    assert set(tables) == {"gain", "bias"} and set(estimate(tac(noise_bias=True))) == {"gain", "bias", "noise_bias"}
    correction, eps = tac().load(tables), torch.randn(3, *SHAPE, dtype=DOUBLE)
    assert torch.equal(correction.post(eps, 2), eps * tables["gain"][2][:, None, None])
    zeros = TacCorrection(tables["gain"], tables["bias"], torch.zeros_like(tables["bias"]))
    assert torch.equal(run(rounded, correction, eta=0.5), run(rounded, zeros, eta=0.5))


def test_the_sampler_s_noise_stays_and_every_eta_fits() -> None:
    class Bare:
        """The two hooks as they were, the noise left to the sampler."""

        def __init__(self, inner: Correction) -> None:
            self.pre, self.post = inner.pre, inner.post

        def variance(self, sigma: Tensor, noise_gain: Tensor, call: int) -> Tensor:
            return sigma * 1

    correction = tac().load(estimate(tac()))
    sigma = torch.tensor(0.3)
    assert correction.variance(sigma, torch.tensor(2.0), 1) is sigma
    assert torch.equal(run(rounded, correction, eta=1.0), run(rounded, Bare(correction), eta=1.0))
    for eta in (0.0, 0.5, 1.0):
        tac().check(eta)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("tac", {}), ("tac_ner", {"ibc": False}), ("tac_ibc", {"ner": False}), ("tac_first", {"timestep_aware": False}),
        ("tac_noise", {"noise_bias": True, "ibc": False}),
    ],
)  # fmt: skip
def test_a_variant_is_tac_with_its_change(name: str, change: dict[str, Any]) -> None:
    base, config = composed("method=tac"), composed(f"method={name}")
    assert config["correct"] == {**base["correct"], **change}
    assert all(config[part] == base[part] for part in ("calib", "scheme", "recon"))
    assert isinstance(make(config["correct"]), Tac)
