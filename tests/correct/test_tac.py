from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.correct import NoCorrection, Tac, TacCorrection
from dmq_cli.models import Denoiser
from dmq_cli.sampling import DDIM, sample_images, walk
from tests.tiny import scheduler

SHAPE = (2, 3, 3)
DOUBLE = torch.float64
STEPS = 5
WEIGHT = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=DOUBLE) / 2


def full(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    """A denoiser that mixes channels and bends."""
    return torch.tanh(torch.einsum("ij,bjhw->bihw", WEIGHT, sample) + timestep.double() / 2000) + 0.2 * sample


def rounded(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    """Its quantized twin: 0.7 of it, coarsely rounded, plus a bias."""
    return (0.7 * full(sample, timestep) * 4).round() / 4 + 0.05


def tac(**changes: Any) -> Tac:
    return Tac(**{"seeds": "0-6", "lambda1": 0.3, "lambda2": 0.1, "k_threshold": 1.0, **changes})


def estimate(
    config: Tac, quantized: Denoiser = rounded, eta: float = 0.0, plan: DDIM | None = None
) -> dict[str, Tensor]:
    return config.estimate(full, quantized, plan or scheduler(STEPS), SHAPE, eta, DOUBLE)


def run(denoiser: Denoiser, correction: object = None, seeds: range = range(50, 54), eta: float = 0.0) -> Tensor:
    return sample_images(
        walk(denoiser, scheduler(STEPS), seeds, SHAPE, eta=eta, correction=correction, dtype=DOUBLE)  # type: ignore[arg-type]
    )


def gain(q: np.ndarray[Any, Any], e: np.ndarray[Any, Any], config: Tac) -> np.ndarray[Any, Any]:
    """Eq. 19 as printed, the sums over all samples."""
    l1, l2, n = config.lambda1, config.lambda2, e[0].size
    m = np.abs(e) > config.k_threshold * np.abs(e).mean(axis=(1, 2, 3), keepdims=True)
    axes = (0, 2, 3)
    above = (1 - l1) * (q * e * m).sum(axes) + l1 * n * (q / e * m).sum(axes) + l2 * n * len(e)
    below = (1 - l1) * (q**2 * m).sum(axes) + l1 * n * ((q / e) ** 2 * m).sum(axes) + l2 * n * len(e)
    result: np.ndarray[Any, Any] = above / below
    return result


@pytest.mark.parametrize("inputs", ["corrected", "reference"])
@pytest.mark.parametrize("eta", [0.0, 0.6])
@pytest.mark.parametrize(("ner", "ibc", "aware"), [(1, 1, 1), (1, 0, 1), (0, 1, 1), (1, 1, 0), (0, 0, 1)])
def test_algorithm_1(ner: int, ibc: int, aware: int, eta: float, inputs: str) -> None:
    """inputs: where the quantized estimate of eq. 19 is taken: on the corrected trajectory, or on the full-precision one."""
    config = tac(ner=bool(ner), ibc=bool(ibc), timestep_aware=bool(aware), inputs=inputs)
    tables = estimate(config, eta=eta)
    plan = scheduler(STEPS)
    times = plan.timesteps.tolist()

    def draws() -> list[Tensor]:
        """The starting noise and that of every step, seed by seed."""
        rngs = [torch.Generator().manual_seed(seed) for seed in range(7)]
        return [torch.stack([torch.randn(SHAPE, generator=g, dtype=DOUBLE) for g in rngs]) for _ in range(STEPS + 1)]

    z = draws()
    x, reference = z[0], []
    for call, timestep in enumerate(times):
        eps = full(x, torch.tensor([timestep]))
        reference.append((x, eps))
        x = plan.step(eps, timestep, x, eta=eta, noise=z[call + 1])
    y = z[0]
    for call, timestep in enumerate(times):
        bias = (y - reference[call][0]).mean(0) if ibc and (aware or call == 1) else torch.zeros(SHAPE, dtype=DOUBLE)
        y = y - bias
        estimated = rounded(y, torch.tensor([timestep]))
        k = np.ones(2)
        if ner and (aware or call == 0):
            compared = rounded(reference[call][0], torch.tensor([timestep])) if inputs == "reference" else estimated
            k = gain(compared.numpy(), reference[call][1].numpy(), config)
        assert torch.allclose(tables["bias"][call], bias, rtol=1e-12, atol=1e-14)
        assert np.allclose(tables["gain"][call].numpy(), k, rtol=1e-12)
        assert ((k > 0.2) & (k < 5)).all()
        y = plan.step(estimated * torch.from_numpy(k)[:, None, None], timestep, y, eta=eta, noise=z[call + 1])
    assert tables["gain"].shape == (STEPS, 2) and tables["bias"].shape == (STEPS, *SHAPE)
    assert bool(tables["bias"][0].eq(0).all()) and bool(tables["bias"][1].any()) == bool(ibc)
    assert bool((tables["gain"][0] != 1).all()) == bool(ner)
    assert int((tables["gain"] != 1).any(1).sum()) == (STEPS if aware else 1) * ner
    assert int(tables["bias"].flatten(1).any(1).sum()) == (STEPS - 1 if aware else 1) * ibc


def test_both_off_is_no_correction_bit_for_bit() -> None:
    config = tac(ner=False, ibc=False)
    correction = config.load(estimate(config))
    assert torch.equal(run(rounded, correction), run(rounded))
    assert not torch.equal(run(rounded, tac().load(estimate(tac()))), run(rounded))


def test_a_planted_gain_gives_the_full_precision_images() -> None:
    planted = torch.tensor([0.6, 1.8], dtype=DOUBLE)[:, None, None]

    def shrunk(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return full(sample, timestep) / planted

    config = tac(lambda2=0.0)
    tables = estimate(config, shrunk)
    assert torch.allclose(tables["gain"], planted.flatten().expand(STEPS, 2), rtol=0, atol=1e-6)
    assert float(tables["bias"].abs().max()) < 1e-6
    assert float((run(shrunk) - run(full)).abs().max()) > 0.05
    assert torch.allclose(run(shrunk, config.load(tables)), run(full), rtol=0, atol=1e-6)


def test_noise_of_the_input_moves_the_printed_gain_and_not_that_of_the_same_input() -> None:
    """The quantized network is right but for a jump of the first estimate, which puts surplus noise into every later sample:
    nothing is to be corrected there, and Algorithm 1 as printed corrects, the more the larger the estimate grew for it."""

    def linear(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return 0.8 * sample

    plan = scheduler(STEPS)
    first = plan.timesteps.tolist()[0]

    def jumps(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return linear(sample, timestep) * (0.3 if int(timestep) == first else 1.0)

    changes: dict[str, Any] = {"lambda2": 0.0, "k_threshold": 0.0, "lambda1": 0.0, "ibc": False, "clamp": (0.99, 1.01)}
    gains = {
        inputs: tac(inputs=inputs, **changes).estimate(linear, jumps, plan, SHAPE, dtype=DOUBLE)["gain"]
        for inputs in ("corrected", "reference")
    }
    assert torch.allclose(gains["reference"][1:], torch.ones(STEPS - 1, 2, dtype=DOUBLE), atol=1e-12, rtol=0)
    assert bool((gains["corrected"][1:] == 0.99).all())  # surplus noise: below 1, less noise is removed, and so on


def test_the_gain_stays_1_below_a_timestep() -> None:
    plan = scheduler(STEPS)
    times = plan.timesteps.tolist()
    gains = estimate(tac(least_timestep=times[2]))["gain"]
    assert bool((gains[:3] != 1).all()) and bool((gains[3:] == 1).all())
    assert bool((estimate(tac())["gain"] != 1).all())


def test_the_output_is_shifted_by_its_mean_error_if_asked() -> None:
    """By how much the corrected x_0 is off on the mean of the seeds it was estimated on, and nothing before it changes."""
    plain, shifting = tac(), tac(correct_output=True)
    plain_tables, tables = estimate(plain), estimate(shifting)
    assert set(tables) == {"gain", "bias", "output_bias"} and all(
        torch.equal(tables[name], plain_tables[name]) for name in plain_tables
    )
    assert {name: tuple(table.shape) for name, table in tables.items()} == shifting.shapes(STEPS, SHAPE, guided=False)
    ends = {}
    for name, denoiser, correction in (
        ("full", full, None), ("plain", rounded, plain.load(plain_tables)), ("shifted", rounded, shifting.load(tables))
    ):  # fmt: skip
        steps = list(walk(denoiser, scheduler(STEPS), range(7), SHAPE, correction=correction, dtype=DOUBLE))
        ends[name] = steps[-1].following
    off = (ends["plain"] - ends["full"]).mean(0)
    assert torch.allclose(tables["output_bias"], off, rtol=0, atol=1e-12) and off.abs().max() > 1e-3
    assert torch.allclose(ends["shifted"], ends["plain"] - off, rtol=0, atol=1e-12)
    assert (ends["shifted"] - ends["full"]).mean(0).abs().max() < 1e-12


def test_a_planted_bias_of_the_input_is_removed() -> None:
    """A constant error of every estimate shifts all inputs by a known amount; IBC takes it out."""
    shift = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5), dtype=DOUBLE) / 10

    def still(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return 0.2 * torch.ones_like(sample)

    def shifted(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        return still(sample, timestep) + shift

    config, plan = tac(ner=False), scheduler(STEPS)
    tables = config.estimate(still, shifted, plan, SHAPE, dtype=DOUBLE)
    zero, times = torch.zeros(SHAPE, dtype=DOUBLE), plan.timesteps.tolist()
    for call in range(1, STEPS):
        # the estimate enters the step linearly, and the step before started from a corrected input
        moved = plan.step(shift, times[call - 1], zero)
        assert torch.allclose(tables["bias"][call], moved, rtol=1e-9, atol=1e-12)
    reference = list(walk(still, plan, range(50, 54), SHAPE, dtype=DOUBLE))
    corrected = list(walk(shifted, plan, range(50, 54), SHAPE, correction=config.load(tables), dtype=DOUBLE))
    for step, other in zip(corrected, reference, strict=True):
        assert torch.allclose(step.sample, other.sample, rtol=0, atol=1e-12)
    last = corrected[-1].following - reference[-1].following  # x_0 is not shifted: the error of the last step stays
    assert torch.allclose(last, plan.step(shift, times[-1], zero).expand_as(last), rtol=1e-9, atol=1e-12)
    assert float(last.abs().max()) > 1e-4


def test_the_tables_are_looked_up_by_call() -> None:
    tables = {"gain": torch.arange(1.0, 7).view(3, 2), "bias": torch.arange(54.0).view(3, *SHAPE)}
    correction = tac().load(tables)
    sample = torch.ones(4, *SHAPE, dtype=DOUBLE)
    assert torch.equal(correction.pre(sample, 2), sample - torch.arange(36, 54).view(SHAPE))
    after = correction.post(sample, 1)
    assert (
        after.dtype == DOUBLE
        and torch.equal(after[:, 0], 3 * sample[:, 0])
        and torch.equal(after[:, 1], 4 * sample[:, 1])
    )


def test_progress_and_the_case_of_nothing() -> None:
    progress: list[tuple[int, int]] = []
    tac().estimate(full, rounded, scheduler(STEPS), SHAPE, dtype=DOUBLE, report=lambda *at: progress.append(at))
    assert progress == [(call + 1, STEPS) for call in range(STEPS)]
    nothing = NoCorrection()
    assert nothing.estimate(full, rounded, scheduler(STEPS), SHAPE) == {}
    nothing.load({})
    nothing.check(0.0)


def test_correction_brings_images_closer() -> None:
    def error(correction: TacCorrection | None) -> float:
        return float((run(rounded, correction) - run(full)).square().mean())

    def made() -> TacCorrection:
        config = tac(seeds="100-163")
        return config.load(estimate(config))

    assert error(made()) < 0.6 * error(None)
