"""All samplers through one loop: orders of convergence, batches, state, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import Denoiser, ModelDenoiser
from dmq_cli.sampling import DDIM, Sampler, Solver, batches, neutral, walk
from dmq_cli.stages.build import make
from tests.sampling.exact import DOUBLE, SAMPLERS, SEEDS, SMALL, SOLVERS, bent, end, exact, rounded, settings, start
from tests.test_conf import CONF, composed
from tests.tiny import SCHEDULE, SHAPE, adapter, one_sentence

TOTAL = 1025  # so that linspace is even, in t and in lambda
LAMBDA = np.linspace(2.5, -2.5, TOTAL)
EVEN = 1 / (1 + np.exp(-2 * LAMBDA))  # abar whose lambda falls evenly
MEAN, STD = 0.4, 0.3
ORDERS = {"ddim": 1, "euler": 1, "plms": 2, "dpmpp_2s": 2, "dpmpp_2m": 2, "unipc": 2}


def test_all_samplers_are_swept() -> None:
    assert len(SAMPLERS) == 7 and len(SOLVERS) == 5
    for name in SAMPLERS:
        assert isinstance(make(composed(f"sampler={name}")["sampler"]), SAMPLERS[name][0])
    assert sorted(file.stem for file in (CONF / "sampler").iterdir()) == sorted(SAMPLERS)
    ddpm, ddim = composed("sampler=ddpm")["sampler"], composed("sampler.eta=1.0")["sampler"]
    assert neutral(ddpm) == neutral(ddim)  # so they share artifacts


def gaussian(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
    """The exact noise estimate for data from Normal(MEAN, STD^2)."""
    abar = EVEN[int(timestep)]
    estimate: Tensor = np.sqrt(1 - abar) * (sample - np.sqrt(abar) * MEAN) / (abar * STD**2 + 1 - abar)
    return estimate


@pytest.mark.parametrize("name", ORDERS)
def test_order_of_convergence_to_the_exact_solution(name: str) -> None:
    """The probability flow keeps (x - alpha mean) / deviation; from the last timestep to the noise of timestep 0."""
    betas = 1 - EVEN / np.concatenate([[1.0], EVEN[:-1]])
    schedule = {"num_train_timesteps": TOTAL, "trained_betas": betas.tolist()}
    away = np.sqrt(EVEN * STD**2 + 1 - EVEN)
    expected = np.sqrt(EVEN[0]) * MEAN + away[0] / away[-1] * (start() - np.sqrt(EVEN[-1]) * MEAN)
    errors = []
    for steps in (64, 128, 256):
        sampler = settings(
            name, steps // 2 if name == "dpmpp_2s" else steps, spacing="linspace", set_alpha_to_one=False
        )
        plan = exact(sampler, EVEN, schedule)
        unit = np.sqrt(EVEN[0]) if name == "euler" else 1.0
        errors.append(float((unit * end(gaussian, plan) - expected).abs().max()))
    orders = np.log2(np.array(errors[:-1]) / errors[1:])
    assert np.allclose(orders, ORDERS[name], rtol=0, atol=0.07), (orders, errors)
    assert errors[-1] < 4e-3 / 10 ** (ORDERS[name] - 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch_nor_on_the_walks_before(name: str) -> None:
    sampler = settings(name, 3)
    plan, seeds = sampler.scheduler(SCHEDULE), range(40, 45)

    def images(denoiser: Denoiser, chosen: range) -> Tensor:
        return list(walk(denoiser, plan, chosen, SHAPE, eta=sampler.eta, dtype=DOUBLE))[-1].following

    for denoiser, error in ((bent, 0.0), (ModelDenoiser(adapter()), 1e-11)):
        whole = images(denoiser, seeds)
        assert whole.shape == (5, *SHAPE) and bool(whole.isfinite().all())
        next(walk(denoiser, plan, seeds, SHAPE, eta=sampler.eta, dtype=DOUBLE))  # left in the middle
        for size in (1, 2):
            parts = torch.cat([images(denoiser, batch) for batch in batches(seeds, size)])
            assert torch.allclose(parts, whole, rtol=error, atol=error)


@pytest.mark.parametrize("name", SAMPLERS)
def test_two_walks_at_once_do_not_disturb_each_other(name: str) -> None:
    sampler = settings(name, 4)
    plan = sampler.scheduler(SCHEDULE)
    alone = [step.following for step in walk(bent, plan, SEEDS, SMALL, eta=sampler.eta)]
    other = walk(rounded, plan, SEEDS, SMALL, eta=sampler.eta)
    for step, _, expected in zip(walk(bent, plan, SEEDS, SMALL, eta=sampler.eta), other, alone, strict=True):
        assert torch.equal(step.following, expected)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_step_tells_what_the_network_read(name: str) -> None:
    sampler, inputs = settings(name, 4), []

    def watched(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        inputs.append((sample, int(timestep)))
        return bent(sample, timestep)

    plan = sampler.scheduler(SCHEDULE)
    assert plan.timesteps.dtype == torch.int64 and plan.timesteps.ndim == 1
    steps = list(walk(watched, plan, SEEDS, SMALL, eta=sampler.eta))
    assert [(id(step.input), step.timestep) for step in steps] == [(id(sample), t) for sample, t in inputs]
    assert isinstance(plan.dense(9), DDIM) and len(plan.dense(9).timesteps) == 9
    assert len(plan.timesteps) == sampler.calls and isinstance(plan, Solver) == (name in SOLVERS)


@pytest.mark.parametrize("name", SAMPLERS)
def test_what_a_model_was_not_trained_for_is_refused(name: str) -> None:
    for more, match in (
        (
            {"prediction_type": "flow_prediction"},
            "predict flow_prediction; dmq samples models that predict epsilon, v_pred",
        ),
        ({"variance_type": "learned_range"}, r"variance too \(variance_type=learned_range\)"),
        ({"variance_type": "learned"}, r"variance too \(variance_type=learned\)"),
    ):
        with pytest.raises(ConfigError, match=match) as caught:
            settings(name, 5).scheduler({**SCHEDULE, **more})
        one_sentence(caught.value)
    settings(name, 5).scheduler({**SCHEDULE, "variance_type": "fixed_large", "clip_sample": True})


@pytest.mark.parametrize("eta", [0.1, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", SAMPLERS)
def test_noise_that_cannot_be_is_refused(name: str, eta: float) -> None:
    kind = SAMPLERS[name][0]
    if kind is Sampler and 0 <= eta <= 1:
        return
    with pytest.raises(ConfigError, match=rf"sampler\.eta={eta} is not possible") as caught:
        kind(5, eta=eta)
    one_sentence(caught.value)


def test_one_step_is_too_few_for_plms() -> None:
    with pytest.raises(ConfigError, match="num_inference_steps=1 does not fit PLMS") as caught:
        settings("plms", 1).scheduler(SCHEDULE)
    one_sentence(caught.value)
