"""A folder is sampled as its scheduler says: timesteps and images of diffusers' own schedulers made from the same configuration."""

from __future__ import annotations

import itertools
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import ModelDenoiser
from dmq_cli.ops import generators, noise
from dmq_cli.sampling import followed, neutral, walk
from tests.sampling.exact import SAMPLERS
from tests.test_conf import composed
from tests.tiny import SCHEDULE, SHAPE, SMALL, adapter, one_sentence

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers

SD = {
    "_class_name": "PNDMScheduler",
    "steps_offset": 1,
    "set_alpha_to_one": False,
    "clip_sample": False,
    "skip_prk_steps": True,
}
FOLDERS: dict[str, dict[str, Any]] = {
    "stable diffusion": SD,
    "ddpm": {"_class_name": "DDPMScheduler", "variance_type": "fixed_small", "clip_sample": True, "timestep_spacing": "leading"},
    "narrow clip": {"_class_name": "DDIMScheduler", "clip_sample": True, "clip_sample_range": 0.6, "set_alpha_to_one": False},
    "trailing": SD | {"timestep_spacing": "trailing"},
    "linspace": SD | {"timestep_spacing": "linspace", "set_alpha_to_one": True, "steps_offset": 0},
    "leading": {"_class_name": "UniPCMultistepScheduler", "timestep_spacing": "leading", "steps_offset": 1, "clip_sample": False},
    "low end": {"_class_name": "EulerDiscreteScheduler", "final_sigmas_type": "sigma_min", "timestep_spacing": "trailing"},
}  # fmt: skip
SEEDS = range(40, 42)
COUNTS = (2, 3, 4, 7, 10, 28, 30)  # most do not divide 1000
KINDS = {
    "ddim": diffusers.DDIMScheduler, "ddpm": diffusers.DDPMScheduler, "plms": diffusers.PNDMScheduler,
    "dpmpp_2s": diffusers.DPMSolverSinglestepScheduler, "dpmpp_2m": diffusers.DPMSolverMultistepScheduler,
    "unipc": diffusers.UniPCMultistepScheduler, "euler": diffusers.EulerDiscreteScheduler,
}  # fmt: skip
NULLS = {"spacing", "solver_spacing", "steps_offset", "set_alpha_to_one", "clip_sample", "clip_sample_range"}


def section(name: str, steps: int, **given: Any) -> dict[str, Any]:
    """conf/sampler/<name>.yaml for a folder, with nothing chosen but the steps and what is given."""
    config = composed(f"sampler={name}")["sampler"]
    nulls = {key: None for key in config if key in NULLS}
    return {**config, **nulls, "num_inference_steps": steps, **given}


def ours(name: str, steps: int, config: dict[str, Any], **given: Any) -> tuple[Any, Any]:
    """Settings and scheduler of dmq for a folder."""
    kind = SAMPLERS[name][0]
    options = followed(kind, section(name, steps, **given), {**SCHEDULE, **config}).section
    settings = kind(**{key: value for key, value in options.items() if key != "_target_"})
    return settings, settings.scheduler({**SCHEDULE, **config})


def theirs(name: str, steps: int, config: dict[str, Any]) -> Any:
    """diffusers' scheduler of that kind, made from the folder's configuration."""
    more = {"skip_prk_steps": True} if name == "plms" else {}
    scheduler = KINDS[name].from_config({**SCHEDULE, **config, **more})
    scheduler.set_timesteps(steps * (2 if name == "dpmpp_2s" else 1))
    return scheduler


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_timesteps_are_diffusers(name: str) -> None:
    """Where dmq refuses, diffusers visits fractions, a timestep outside of training, or one twice."""
    visited = refused = 0
    for config, steps in itertools.product(FOLDERS.values(), COUNTS):
        reference = theirs(name, steps, config).timesteps.tolist()
        try:
            timesteps = ours(name, steps, config)[1].timesteps.tolist()
        except ConfigError as error:
            assert name == "euler" and any(t % 1 for t in reference), one_sentence(error)
            assert "sampler.spacing=linspace" in one_sentence(error)
            refused += 1
        else:
            assert timesteps == reference, (config, steps)
            visited += 1
    assert visited + refused == len(FOLDERS) * len(COUNTS) == 49
    # three folders say nothing about spacing or say linspace, which for Euler is whole at 2, 4, 10 and 28 steps
    assert refused == (9 if name == "euler" else 0)


def test_where_diffusers_own_list_leaves_the_training_it_is_refused() -> None:
    """Of trailing, its arithmetic visits timestep -1 for some numbers of steps, which is the last one for its tables."""
    counts, refused = (1, 2, 7, 48, 61, 96, 99, 103, 122, 201, 463, 500, 1000), []
    for spacing, steps in itertools.product(("leading", "trailing", "linspace"), counts):
        config = SD | {"timestep_spacing": spacing}
        reference = theirs("ddim", steps, config).timesteps.tolist()
        try:
            assert ours("ddim", steps, config)[1].timesteps.tolist() == reference
        except ConfigError as error:
            assert (min(reference), max(reference)) in ((-1, 999), (1, 1000)), one_sentence(error)
            refused.append((spacing, steps))
    assert refused == [("leading", 1000), *(("trailing", steps) for steps in (61, 103, 122, 201, 463))]


def last(name: str, steps: int, config: dict[str, Any], denoiser: Any) -> Tensor:
    settings, plan = ours(name, steps, config)
    return list(walk(denoiser, plan, SEEDS, SHAPE, eta=settings.eta))[-1].following


def looped(reference: Any, denoiser: Any, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """diffusers' loop with dmq's noise, one generator for each image."""
    streams = generators(SEEDS)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise(SHAPE, streams, torch.float32)
    )
    x: Tensor = noise(SHAPE, streams, torch.float32) * reference.init_noise_sigma
    with torch.inference_mode():
        for timestep in reference.timesteps:
            eps = denoiser(reference.scale_model_input(x, timestep), timestep.reshape(1))
            x = reference.step(eps, timestep, x).prev_sample
    return x


@pytest.fixture(scope="module")
def denoiser() -> ModelDenoiser:
    return ModelDenoiser(adapter(torch.float32, **SMALL))


@pytest.mark.parametrize("name", SAMPLERS)
def test_whole_images_are_those_of_diffusers_loop(
    name: str, denoiser: ModelDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = 0
    for label, config in FOLDERS.items():
        if name == "ddpm" and label in ("trailing", "linspace"):
            config = config | {"clip_sample": True}  # where DDPM and DDIM part
        for steps in (4, 7):
            if name == "euler" and steps == 7 and label in ("stable diffusion", "linspace", "narrow clip"):
                continue  # fractions of timesteps
            expected = looped(theirs(name, steps, config), denoiser, monkeypatch)
            images = last(name, steps, config, denoiser)
            size = expected.abs().max()
            assert torch.isfinite(images).all() and (images - expected).abs().max() < 3e-5 * size, (label, steps)
            compared += 1
    assert compared == 14 - (3 if name == "euler" else 0)


def test_other_settings_give_other_images(denoiser: ModelDenoiser) -> None:
    """What is followed is seen: the tolerance above tells each of these apart."""
    base = {"_class_name": "DDIMScheduler", "clip_sample": False}
    changes = ({"steps_offset": 1}, {"set_alpha_to_one": False}, {"timestep_spacing": "trailing"},
               {"clip_sample": True, "clip_sample_range": 0.6}, {"timestep_spacing": "linspace"})  # fmt: skip
    plain = last("ddim", 7, base, denoiser)
    for change in changes:
        assert (last("ddim", 7, base | change, denoiser) - plain).abs().max() > 9e-5 * plain.abs().max(), change


def test_what_is_given_wins_and_is_said() -> None:
    config = section("ddim", 5, spacing="quad", set_alpha_to_one=True)
    result = followed(SAMPLERS["ddim"][0], config, {**SCHEDULE, **SD, "timestep_spacing": "trailing"})
    assert result.section["spacing"] == "quad" and result.section["set_alpha_to_one"] is True
    assert {"steps_offset", "fixed_stride", "clip_sample_range", "posterior"}.isdisjoint(result.section)
    assert result.taken == {"clip_sample": False, "clip_sample_range": 1.0, "steps_offset": 0}
    assert result.overridden == {"spacing": "diffusers_trailing", "set_alpha_to_one": False}
    assert result.record()["scheduler"] == "PNDMScheduler" and result.record()["steps"] == 5


def test_settings_that_change_nothing_are_in_no_key() -> None:
    """The keys of what was sampled before these settings existed."""
    before = {"num_inference_steps", "spacing", "eta", "set_alpha_to_one", "_target_"}
    for name in SAMPLERS:
        assert set(neutral(composed(f"sampler={name}")["sampler"])) - {"clip_sample"} == before
    clipped = {"clip_sample": True, "clip_sample_range": 0.5, "posterior": True}
    assert neutral(clipped) == clipped and neutral({**clipped, "clip_sample": False}) == {"clip_sample": False}


@pytest.mark.parametrize(("name", "change", "sentence"), [
    ("ddim", {"use_karras_sigmas": True}, "by use_karras_sigmas=True.*give sampler.spacing"),
    ("euler", {"interpolation_type": "log_linear"}, "give sampler.spacing"),
    ("dpmpp_2m", {"lambda_min_clipped": -5.1}, "give sampler.spacing"),
    ("dpmpp_2m", {"euler_at_final": True}, "euler_at_final=True, but sampler=dpmpp_2m of dmq has False"),
    ("dpmpp_2m", {"algorithm_type": "sde-dpmsolver++"}, "algorithm_type=sde-dpmsolver"),
    ("dpmpp_2s", {"lower_order_final": True, "final_sigmas_type": "sigma_min"}, "second order to the end"),
    ("unipc", {"predict_x0": False}, "predict_x0=False"),
    ("plms", {"skip_prk_steps": False}, "give sampler.skip_prk_steps=true"),
    ("ddpm", {"variance_type": "fixed_large"}, "take sampler=ddim sampler.eta=1"),
    ("ddim", {"steps_offset": 500}, "visits timestep 1000"),
])  # fmt: skip
def test_what_a_sampler_cannot_follow_is_refused(name: str, change: dict[str, Any], sentence: str) -> None:
    null = {"skip_prk_steps": None} if name == "plms" else {}
    with pytest.raises(ConfigError, match=sentence) as caught:
        ours(name, 2, {**SD, **change}, **null)
    one_sentence(caught.value)


def test_timesteps_by_something_else_may_be_overridden() -> None:
    scheduler = ours("ddim", 4, SD | {"use_karras_sigmas": True}, spacing="uniform")[1]
    assert scheduler.timesteps.tolist() == [751, 501, 251, 1]  # the offset is still followed


def test_latents_are_not_clipped_by_a_default() -> None:
    kind, unsaid = SAMPLERS["ddim"][0], {**SCHEDULE, "_class_name": "PNDMScheduler"}
    with pytest.raises(ConfigError, match=r"give sampler\.clip_sample=false or true") as caught:
        followed(kind, section("ddim", 4), unsaid, latent=True)
    one_sentence(caught.value)
    assert followed(kind, section("ddim", 4), unsaid).section["clip_sample"] is True  # as diffusers' from_config
    assert followed(kind, section("ddim", 4, clip_sample=False), unsaid, latent=True).section["clip_sample"] is False


def test_where_nothing_of_the_image_is_left() -> None:
    config = SD | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    with pytest.raises(ConfigError, match=r"visits timestep 999, where .*zero terminal SNR") as caught:
        ours("ddim", 4, config)
    one_sentence(caught.value)
    assert np.isfinite(ours("ddim", 4, config, spacing="uniform")[1].alphas_cumprod.numpy()).all()
