"""Images of dmq's loop, guidance and first stage against those of diffusers' own pipelines, from the same noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiTPipeline, LDMPipeline, StableDiffusionPipeline
from torch import Tensor

from dmq_cli.models import ModelDenoiser, load_adapter, load_schedule
from dmq_cli.models.conditions import load_conditions
from dmq_cli.models.first_stage import load_decoder
from dmq_cli.ops import generators, noise
from dmq_cli.sampling import PLMS, Guide, Sampler, sample_images, walk
from dmq_cli.store import write_json
from tests import pipelines

STEPS, SEEDS = 5, range(3)


def ours(path: Path, sampler: Any, guide: Guide) -> Tensor:
    """Images (B, 1, 16, 16) in [-1, 1]."""
    adapter = load_adapter(path)
    plan = sampler.scheduler(load_schedule(path))
    steps = walk(ModelDenoiser(adapter), plan, SEEDS, adapter.sample_shape(), guide=guide)
    return sample_images(steps, load_decoder(path))


def unit(images: Any) -> Tensor:
    """A pipeline's images (B, H, W, C) in [0, 1] as ours."""
    return torch.as_tensor(images).permute(0, 3, 1, 2) * 2 - 1


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_latent_diffusion(tmp_path: Path) -> None:
    path = pipelines.latent(tmp_path)
    pipeline = quiet(LDMPipeline.from_pretrained(path))
    rngs = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    theirs = pipeline(
        batch_size=len(SEEDS), generator=rngs, num_inference_steps=STEPS, eta=0.0, output_type="np", return_dict=False
    )[0]
    images = ours(path, Sampler(STEPS, "ldm", set_alpha_to_one=False), Guide())
    torch.testing.assert_close(images, unit(theirs), rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("sampler", "scale", "kind"),
    [
        ("ddim", 1.0, "epsilon"),
        ("ddim", 4.0, "epsilon"),
        ("plms", 1.0, "epsilon"),
        ("plms", 4.0, "epsilon"),
        ("ddim", 4.0, "v_prediction"),
        ("ddim", 4.0, "sample"),
    ],
)
def test_stable_diffusion(tmp_path: Path, sampler: str, scale: float, kind: str) -> None:
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    path = pipelines.prompts(tmp_path)
    write_json(path / "scheduler" / "scheduler_config.json", {**pipelines.SCHEDULE, "prediction_type": kind})
    schedule = {key: value for key, value in pipelines.SCHEDULE.items() if key not in ("_class_name", "clip_sample")}
    scheduler = DDIMScheduler(**schedule, clip_sample=False, prediction_type=kind)
    if sampler == "plms":
        scheduler = PNDMScheduler(**schedule, skip_prk_steps=True)
    pipeline = quiet(
        StableDiffusionPipeline(
            vae=AutoencoderKL.from_pretrained(path / "vae"),
            text_encoder=CLIPTextModel.from_pretrained(path / "text_encoder"),
            tokenizer=CLIPTokenizer.from_pretrained(path / "tokenizer"),
            unet=UNet2DConditionModel.from_pretrained(path / "unet"),
            scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )
    )  # fmt: skip
    conditions = load_conditions(path, None, str(path / "prompts.txt"))
    assert conditions is not None
    latents = noise(load_adapter(path).sample_shape(), generators(SEEDS), torch.float32)
    theirs = pipeline(
        conditions.subjects(SEEDS), latents=latents, guidance_scale=scale, num_inference_steps=STEPS, output_type="np",
        height=pipelines.SIZE, width=pipelines.SIZE, return_dict=False,
    )[0]  # fmt: skip
    settings = {"ddim": Sampler, "plms": PLMS}[sampler](STEPS, "ldm", set_alpha_to_one=False)
    images = ours(path, settings, Guide(conditions, scale))
    torch.testing.assert_close(images, unit(theirs), rtol=0, atol=2e-5)


def test_diffusion_transformer(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL, DiTTransformer2DModel

    path = pipelines.transformer(tmp_path, classes=1000)  # the pipeline takes class 1000 for none
    pipeline = quiet(
        DiTPipeline(
            transformer=DiTTransformer2DModel.from_pretrained(path / "transformer"),
            vae=AutoencoderKL.from_pretrained(path / "vae"),
            scheduler=DDIMScheduler(**{k: v for k, v in pipelines.SCHEDULE.items() if k != "_class_name"}),
        )
    )
    labels = load_conditions(path, None, None)
    assert labels is not None
    rngs = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    theirs = pipeline(
        [int(label) for label in labels.subjects(SEEDS)], guidance_scale=3.0, generator=rngs, num_inference_steps=STEPS,
        output_type="np", return_dict=False,
    )[0]  # fmt: skip
    images = ours(path, Sampler(STEPS, "ldm", set_alpha_to_one=False), Guide(labels, 3.0))
    torch.testing.assert_close(images, unit(theirs), rtol=0, atol=2e-5)
