"""Scheduler configurations: which training processes are known, and that every value is looked at before anything is made."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from dmq_cli.errors import ModelError
from dmq_cli.models import load_schedule
from dmq_cli.models.schedule import KNOWN
from dmq_cli.sampling import Sampler
from tests.tiny import SCHEDULE, one_sentence

pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # in diffusers

DDIM = {"_class_name": "DDIMScheduler", **SCHEDULE}


def loaded(folder: Path, config: dict[str, Any]) -> dict[str, Any]:
    (folder / "scheduler_config.json").write_text(json.dumps(config), encoding="utf-8")
    return load_schedule(folder)


def others() -> list[str]:
    """Every other scheduler that the installed diffusers exports."""
    named = [name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")]
    return sorted(set(named) - set(KNOWN))


def test_known_classes_are_those_of_one_training_process(tmp_path: Path) -> None:
    """abar of each, from its own constructor, is the product of 1 - beta of the betas that the formula gives."""
    expected = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for name in KNOWN:
        scheduler = getattr(diffusers, name)(**SCHEDULE)
        assert np.allclose(scheduler.alphas_cumprod.numpy(), expected, rtol=1e-4)
        scheduler.save_pretrained(tmp_path)
        assert load_schedule(tmp_path)["num_train_timesteps"] == 1000
    assert len(KNOWN) == 16


def test_every_other_scheduler_of_diffusers_is_refused(tmp_path: Path) -> None:
    refused = 0
    for name in [*others(), "XScheduler", None, ["DDIMScheduler"], ""]:
        with pytest.raises(
            ModelError, match=r"whose training process dmq does not know; .*DDPMScheduler.*PNDM"
        ) as caught:
            loaded(tmp_path, {**SCHEDULE, "_class_name": name})
        assert str(tmp_path) in one_sentence(caught.value)
        refused += 1
    with pytest.raises(ModelError, match="names no scheduler class"):
        loaded(tmp_path, SCHEDULE)
    names = {"FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "LCMScheduler", "ScoreSdeVeScheduler"}
    assert names | {"CogVideoXDDIMScheduler", "VQDiffusionScheduler"} <= set(others()) and refused >= 25


@pytest.mark.parametrize("name", ["HeunDiscreteScheduler", "KDPM2DiscreteScheduler", "DDPMScheduler", "PNDMScheduler"])
def test_what_is_left_out_is_the_default_of_that_class(name: str, tmp_path: Path) -> None:
    """Heun's betas are 0.00085 to 0.012 by default, DDPM's 0.0001 to 0.02."""
    scheduler = Sampler(4).scheduler(loaded(tmp_path, {"_class_name": name}))
    reference = getattr(diffusers, name)()
    assert torch.equal(scheduler.alphas_cumprod, reference.alphas_cumprod)
    assert (float(reference.betas[0]) < 1.5e-4) == (name in ("DDPMScheduler", "PNDMScheduler"))


@pytest.mark.parametrize(("name", "kind"), [("DDPMScheduler", "sigmoid"), ("HeunDiscreteScheduler", "exp")])
def test_betas_that_one_class_knows(name: str, kind: str, tmp_path: Path) -> None:
    schedule = loaded(tmp_path, {**SCHEDULE, "_class_name": name, "beta_schedule": kind})
    alphas = Sampler(4).scheduler(schedule).alphas_cumprod.numpy()
    rise = np.linspace(-6, 6, 1000)
    i = np.arange(1000)
    betas = {
        "sigmoid": 1 / (1 + np.exp(-rise)) * (0.02 - 1e-4) + 1e-4,
        "exp": np.minimum(1 - np.exp(-12.0 * ((i + 1) / 1000 - i / 1000)), 0.999),
    }
    assert np.allclose(alphas, np.cumprod(1 - betas[kind]), rtol=1e-3)


MALFORMED: list[dict[str, Any]] = [
    *({"num_train_timesteps": value} for value in ("x", 1e12, 10**12, 0, -1, True, None, 1000.0, [1000], 10**30)),
    *({"beta_start": value} for value in ("0.1", 0, 0.0, -1e-4, 1.5, None, float("nan"), float("inf"), [1e-4])),
    {"beta_end": 1.0}, {"beta_end": {"a": 1}}, {"beta_schedule": "sigmoid"}, {"beta_schedule": "cosine"}, {"beta_schedule": 3},
    {"beta_schedule": None}, {"beta_schedule": ["linear"]},
    *({"trained_betas": value} for value in ("x", 0.1, [], [0.1], [0.1] * 999, ["a"] * 1000, [2.0] * 1000, {"a": 1})),
    {"trained_betas": [0.1] * 999 + [float("nan")]}, {"trained_betas": [[0.1]] * 1000}, {"trained_betas": [0.0] * 1000},
    *({"steps_offset": value} for value in ("1", -1, 1000, 1.0, None, True)),
    *({"clip_sample": value} for value in ("true", 1, None)), {"clip_sample_range": 0.0}, {"clip_sample_range": -1.0},
    {"clip_sample_range": "1"}, {"timestep_spacing": "even"}, {"timestep_spacing": 1}, {"timestep_spacing": None},
    {"final_sigmas_type": "x"}, {"set_alpha_to_one": 0}, {"prediction_type": None}, {"solver_order": 2.5},
    {"thresholding": True}, {"use_flow_sigmas": True}, {"use_dynamic_shifting": True}, {"timestep_type": "continuous"},
    {"shift_terminal": 0.1}, {"shift": 3.0}, {"snr_shift_scale": 1.0}, {"sigma_data": 0.5}, {"beta_strat": 0.1},
]  # fmt: skip


def test_values_that_cannot_be_are_told_before_anything_is_made(tmp_path: Path) -> None:
    refused = 0
    tracemalloc.start()
    for change in MALFORMED:
        with pytest.raises(ModelError) as caught:
            loaded(tmp_path, {**DDIM, **change})
        text = one_sentence(caught.value)
        assert next(iter(change)) in text and str(tmp_path) in text and len(text) < 1500 + len(str(tmp_path)), change
        refused += 1
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert refused == len(MALFORMED) == 65


def test_an_unknown_key_is_told_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"the key beta_strat=0\.1.* Did you mean beta_start"):
        loaded(tmp_path, {**DDIM, "beta_strat": 0.1})


def test_keys_that_say_nothing_about_numbers_pass(tmp_path: Path) -> None:
    more = {"_diffusers_version": "0.1.1", "tensor_format": "pt", "timestep_values": None, "solver_order": 3}
    assert loaded(tmp_path, {**DDIM, **more})["beta_end"] == 0.02


@pytest.mark.filterwarnings("ignore::FutureWarning")  # what the pipeline says while it changes them
@pytest.mark.parametrize(
    "name", ["DDIMScheduler", "PNDMScheduler", "UniPCMultistepScheduler", "DPMSolverSinglestepScheduler"]
)
def test_what_a_stable_diffusion_pipeline_changes(name: str, tmp_path: Path) -> None:
    """Its constructor, which is run here, replaces two settings of whatever scheduler its folder has."""
    scheduler = getattr(diffusers, name)(**SCHEDULE)
    config = diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(block_out_channels=(4,), norm_num_groups=2), text_encoder=None, tokenizer=None,
        unet=None, scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).scheduler.config  # fmt: skip
    (tmp_path / "scheduler").mkdir()
    scheduler = getattr(diffusers, name)(**SCHEDULE)
    scheduler.save_pretrained(tmp_path / "scheduler")
    before = load_schedule(tmp_path)
    for pipeline, changed in (("DDIMPipeline", False), ("StableDiffusionPipeline", True)):
        (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": pipeline}), encoding="utf-8")
        schedule = load_schedule(tmp_path)
        assert schedule == before if not changed else schedule["_pipeline"] == pipeline
    for key in ("steps_offset", "clip_sample"):
        assert schedule.get(key, False) == config.get(key, False), key
