"""Networks that predict the velocity or the clean sample, against diffusers' own loop and against the equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.models import Denoiser, ModelDenoiser, Prediction, levels, prediction_of
from dmq_cli.models.prediction import LEAST
from dmq_cli.ops import generators, noise
from dmq_cli.sampling import walk
from dmq_cli.wrap import QuantDenoiser, quantizing
from tests.sampling.exact import ALPHAS, DOUBLE, SAMPLERS, exact, settings
from tests.tiny import SCHEDULE, SHAPE, adapter, data, network, one_sentence, wrapped

SEEDS = range(3)
KINDS = ["v_prediction", "sample"]
ZERO = {**SCHEDULE, "rescale_betas_zero_snr": True}

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # diffusers' set_timesteps


def predicting(kind: str, alphas: Tensor | None = None) -> ModelDenoiser:
    """The tiny UNet as a network that predicts `kind`, in float64."""
    unet = adapter()
    unet.prediction = Prediction(kind, torch.from_numpy(ALPHAS) if alphas is None else alphas)
    return ModelDenoiser(unet)


def as_noise(kind: str) -> Denoiser:
    """The same, by numpy."""
    model = network()

    def estimate(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        output, x = model(sample, timestep).sample.numpy(), sample.numpy()
        abar = ALPHAS[timestep.numpy()].reshape(-1, 1, 1, 1)
        clean = output if kind == "sample" else np.sqrt(abar) * x - np.sqrt(1 - abar) * output
        return torch.from_numpy((x - np.sqrt(abar) * clean) / np.sqrt(1 - abar))

    return estimate


def final(denoiser: Denoiser, plan: Any, dtype: torch.dtype = DOUBLE) -> Tensor:
    return list(walk(denoiser, plan, SEEDS, SHAPE, dtype=dtype))[-1].following


def theirs(reference: Any, steps: int, alphas: Tensor | None = None, dtype: torch.dtype = DOUBLE) -> Tensor:
    """diffusers' own loop on the network as it is."""
    if alphas is not None:
        reference.alphas_cumprod = alphas
    reference.set_timesteps(steps)
    model = network(dtype)
    x: Tensor = noise(SHAPE, generators(SEEDS), dtype) * reference.init_noise_sigma
    for timestep in reference.timesteps:
        output = model(reference.scale_model_input(x, timestep).to(dtype), timestep.reshape(1)).sample
        x = reference.step(output, timestep, x).prev_sample
    return x


@pytest.mark.parametrize("kind", KINDS)
def test_the_equations(kind: str) -> None:
    sample, timestep = data()
    estimate = predicting(kind)(sample, timestep)
    assert torch.allclose(estimate, as_noise(kind)(sample, timestep), rtol=0, atol=1e-12)
    single = predicting(kind)(sample, timestep[:1])
    assert torch.allclose(single[0], estimate[0], rtol=0, atol=1e-12)
    assert not torch.allclose(estimate, ModelDenoiser(adapter())(sample, timestep))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_walks_as_from_the_noise(name: str, kind: str) -> None:
    sampler = settings(name, 4)
    plan = exact(sampler, schedule={**SCHEDULE, "prediction_type": kind})
    assert torch.allclose(final(predicting(kind), plan), final(as_noise(kind), plan), rtol=0, atol=1e-9)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [1, 10])
def test_ddim_is_diffusers_own_in_float64(steps: int, kind: str) -> None:
    alphas = torch.from_numpy(ALPHAS)
    reference = DDIMScheduler(**SCHEDULE, prediction_type=kind, clip_sample=False)
    sampler = settings("ddim", steps)
    plan = exact(sampler, schedule={**SCHEDULE, "prediction_type": kind})
    expected = theirs(reference, steps, alphas)
    assert torch.allclose(final(predicting(kind), plan), expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(final(ModelDenoiser(adapter()), plan), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clipped_image_is_diffusers_own(kind: str) -> None:
    reference = DDPMScheduler(**SCHEDULE, prediction_type=kind, clip_sample=True, variance_type="fixed_small")
    reference.alphas_cumprod = torch.from_numpy(ALPHAS)
    reference.set_timesteps(10)
    sampler = settings("ddpm", 10, clip_sample=True, posterior=True)
    plan = exact(sampler, schedule={**SCHEDULE, "prediction_type": kind})
    model, denoise = network(), predicting(kind)
    sample = data()[0]
    for timestep in plan.timesteps[:-1]:
        output, eps = model(sample, timestep.reshape(1)).sample, denoise(sample, timestep.reshape(1))
        mean = plan.step(eps, int(timestep), sample, eta=0.0)
        clean = reference.step(
            output, timestep, sample, generator=torch.Generator().manual_seed(0)
        ).pred_original_sample
        before = plan.step(eps, int(timestep), sample, eta=1.0, noise=torch.zeros_like(sample))
        now, later = ALPHAS[int(timestep)], ALPHAS[int(timestep) - 100]
        beta = 1 - now / later
        posterior = np.sqrt(later) * beta / (1 - now) * clean + np.sqrt(now / later) * (1 - later) / (1 - now) * sample
        assert torch.allclose(before, posterior, rtol=1e-9, atol=1e-9) and mean.isfinite().all()


SOLVERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "dpmpp_2s": (DPMSolverSinglestepScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "unipc": (UniPCMultistepScheduler, {}),
    "euler": (EulerDiscreteScheduler, {"timestep_spacing": "leading"}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_are_diffusers_own(name: str, kind: str) -> None:
    """Up to float32, in which some of diffusers' steps are. Its PLMS averages velocities where ours averages estimates of the noise."""
    kind_of, more = SOLVERS[name]
    reference = kind_of(**SCHEDULE, prediction_type=kind, **more)
    steps = 10
    plan = settings(
        name, steps // 2 if name == "dpmpp_2s" else steps, spacing="uniform" if name == "euler" else "linspace"
    )
    images = final(predicting(kind, reference.alphas_cumprod), plan.scheduler({**SCHEDULE, "prediction_type": kind}))
    assert torch.allclose(images, theirs(reference, steps).to(images), rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["ddim", "dpmpp_2m", "unipc", "euler"])
def test_zero_terminal_snr_is_diffusers_own(name: str, kind: str) -> None:
    """From timestep 999, where nothing of the image is left. DDIM's own abar is 0 there, ours 2^-24."""
    more = {"ddim": {"clip_sample": False}}.get(name, {})
    reference = {"ddim": DDIMScheduler, **{n: k for n, (k, _) in SOLVERS.items()}}[name](
        **ZERO, prediction_type=kind, timestep_spacing="trailing", **more
    )
    schedule = {**ZERO, "prediction_type": kind}
    plan = settings(name, 10, spacing="diffusers_trailing").scheduler(schedule)
    assert int(plan.timesteps[0]) == 999 == int(theirs_first(reference, 10))
    images = final(predicting(kind, levels(schedule)), plan)
    assert images.isfinite().all()
    assert torch.allclose(images, theirs(reference, 10).to(images), rtol=0, atol=5e-4)


def theirs_first(reference: Any, steps: int) -> Tensor:
    reference.set_timesteps(steps)
    first: Tensor = reference.timesteps[0]
    return first


@pytest.mark.parametrize("kind", KINDS)
def test_the_image_comes_back_from_the_noise_at_zero_snr_in_float32(kind: str) -> None:
    """In one step to the end DDIM gives x_0, which is -v; eps alone, in float32, keeps 12 bits of the noise beside it."""
    schedule = {**ZERO, "prediction_type": kind}
    assert float(levels(schedule)[-1]) == LEAST and bool((levels(schedule) > 0).all())
    plan = settings("ddim", 1, spacing="trailing").scheduler(schedule)
    unet = adapter(torch.float32)
    unet.prediction = prediction_of(schedule)
    start = noise(SHAPE, generators(SEEDS), torch.float32)
    output = network(torch.float32)(start, torch.tensor([999])).sample
    clean = output if kind == "sample" else -output
    assert torch.allclose(final(ModelDenoiser(unet), plan, torch.float32), clean, rtol=0, atol=5e-3)


def test_a_network_that_predicts_the_noise_cannot_start_where_nothing_is_left() -> None:
    for name in SAMPLERS:
        with pytest.raises(ConfigError, match=r"visits timestep 999, where .*zero terminal SNR") as caught:
            settings(name, 10, spacing="trailing").scheduler(ZERO)
        one_sentence(caught.value)
        assert int(settings(name, 10, spacing="uniform").scheduler(ZERO).timesteps[0]) < 999


@pytest.mark.parametrize("kind", KINDS)
def test_the_quantized_network_is_converted_too(kind: str) -> None:
    attached = wrapped()
    attached.adapter.prediction = Prediction(kind, torch.from_numpy(ALPHAS))
    with quantizing(attached, weights=False, activations=False):
        assert torch.allclose(QuantDenoiser(attached)(*data()), as_noise(kind)(*data()), rtol=0, atol=1e-10)
    sample, timestep = data()
    with attached.at(timestep):
        output = attached.adapter.predict(sample, timestep, None)
    abar = torch.from_numpy(ALPHAS)[timestep][:, None, None, None]
    expected = (
        (sample - abar.sqrt() * output) / (1 - abar).sqrt()
        if kind == "sample"
        else abar.sqrt() * output + (1 - abar).sqrt() * sample
    )
    assert torch.allclose(QuantDenoiser(attached)(sample, timestep), expected, rtol=0, atol=1e-12)


def test_timesteps_between_those_of_training_are_refused() -> None:
    sample, timestep = data()
    whole = predicting("v_prediction")(sample, timestep.double())
    assert torch.equal(whole, predicting("v_prediction")(sample, timestep))
    with pytest.raises(ModelError, match="use whole timesteps") as caught:
        predicting("v_prediction")(sample, timestep + 0.5)
    one_sentence(caught.value)
    with pytest.raises(ModelError, match="prediction_type=flow_prediction, which dmq does not know") as caught:
        prediction_of({**SCHEDULE, "prediction_type": "flow_prediction"})
    one_sentence(caught.value)
