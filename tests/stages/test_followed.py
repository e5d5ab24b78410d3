"""A folder from the command line: sampled as its scheduler says, what was taken from where, keys, refusals, no guidance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from dmq_cli.models import load_adapter
from dmq_cli.ops import generators, noise
from dmq_cli.stages.prepare import prepare
from tests import pipelines
from tests.chain import IMAGES, STEPS, dmq, images, tiny_folder, words
from tests.test_conf import composed
from tests.tiny import SCHEDULE, SMALL

SD: dict[str, Any] = {"_class_name": "PNDMScheduler", **SCHEDULE, "steps_offset": 1, "set_alpha_to_one": False,
                      "clip_sample": False, "skip_prk_steps": True}  # fmt: skip


def scheduled(path: Path, **config: Any) -> Path:
    (path / "scheduler/scheduler_config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return scheduled(tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **SMALL), **SD)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pipelines.prompts(tmp_path_factory.mktemp("model") / "text")


def test_images_are_those_of_diffusers_loop(folder: Path, tmp_path: Path) -> None:
    result = dmq(*words("sample", folder, tmp_path))
    assert result.code == 0, result.err
    sentence = "scheduler (PNDMScheduler): spacing uniform, set_alpha_to_one false, clip_sample false, clip_sample_range 1.0, steps_offset 1"
    (log,) = (tmp_path / "runs/sample").glob("*/*.log")
    assert result.err.count(sentence) == 1 and log.read_text().count(sentence) == 1
    plan, network = DDIMScheduler.from_config(SD), load_adapter(folder)
    plan.set_timesteps(STEPS)
    assert plan.timesteps.tolist() == [751, 501, 251, 1]
    x = noise((1, 16, 16), generators(range(IMAGES)), torch.float32)
    with torch.inference_mode():
        for timestep in plan.timesteps:
            x = plan.step(network.predict(x, timestep.reshape(1), None), timestep, x).prev_sample
    expected = ((x.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    difference = np.abs(images(tmp_path, "sample_fp") - expected)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3


def section(folder: Path, *more: str) -> dict[str, Any]:
    """The section `sampler` that keys are made of."""
    overrides = ("model=folder", f"model.path={folder}", "model.name=tiny", "seeds=0-7", *more)
    config = composed(*overrides, *(f"model.sampling.{key}=null" for key in ("set_alpha_to_one", "steps_offset", "spacing",
        "clip_sample", "clip_sample_range", "solver_spacing", "skip_prk_steps")))  # fmt: skip
    sampler: dict[str, Any] = prepare({**config, "stage": "sample"})["sampler"]
    return sampler


def test_effective_values_are_what_a_key_is_made_of(folder: Path) -> None:
    target = {"_target_": "dmq_cli.sampling.Sampler", "num_inference_steps": 100, "eta": 0.0}
    followed = {**target, "spacing": "uniform", "set_alpha_to_one": False, "clip_sample": False}
    assert section(folder) == {**followed, "steps_offset": 1}
    without_offset = section(folder, "sampler.steps_offset=0")
    assert without_offset == followed  # as the same settings were written before there was an offset
    assert section(folder, "sampler=ddpm") == {**followed, "eta": 1.0, "steps_offset": 1, "set_alpha_to_one": True}
    assert section(folder, "sampler=plms") == {
        **target, "_target_": "dmq_cli.sampling.PLMS", "spacing": "uniform", "set_alpha_to_one": False, "steps_offset": 1,
    }  # fmt: skip


def test_named_models_keep_their_settings_and_keys() -> None:
    """The shipped latent model's scheduler says steps_offset 1, its configuration does not."""
    sampler = prepare({**composed("model=ldm_digits", "seeds=0-7"), "stage": "sample"})["sampler"]
    assert sampler == {
        "_target_": "dmq_cli.sampling.Sampler", "num_inference_steps": 20, "spacing": "uniform", "eta": 0.0,
        "set_alpha_to_one": False, "clip_sample": False,
    }  # fmt: skip


def test_the_plan_says_what_comes_from_where(folder: Path, tmp_path: Path) -> None:
    command = ("plan", *words("sample", folder, tmp_path, "sampler.set_alpha_to_one=true"))
    printed = json.loads(dmq(*command, "--json").out)
    assert isinstance(printed["plan"], list) and "guidance" not in printed
    assert printed["sampler"] == {
        "sampler": "ddim", "steps": STEPS, "scheduler": "PNDMScheduler",
        "taken": {"spacing": "uniform", "clip_sample": False, "clip_sample_range": 1.0, "steps_offset": 1},
        "overridden": {"set_alpha_to_one": False}, "unread": {},
    }  # fmt: skip
    line = dmq(*command).out.splitlines()[-1]
    assert line.startswith("sampler: ddim, 4 steps; from the folder's scheduler (PNDMScheduler): spacing uniform")
    assert line.endswith("overridden (PNDMScheduler has): set_alpha_to_one false")
    solver = dmq("plan", *words("sample", folder, tmp_path, "sampler=dpmpp_2s")).out.splitlines()[-1]
    assert solver.endswith(
        "spacing linspace, set_alpha_to_one true, steps_offset 0; nothing that this sampler has: steps_offset 1, set_alpha_to_one false"
    )


@pytest.mark.parametrize(("config", "sentence"), [
    ({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}, "FlowMatchEulerDiscreteScheduler, whose training process"),
    (SCHEDULE, "names no scheduler class"),
    ({"_class_name": "DDIMScheduler", "num_train_timesteps": "x"}, "num_train_timesteps='x', which cannot be"),
    ({"_class_name": "DDIMScheduler", "num_train_timesteps": 1e12}, "num_train_timesteps=1000000000000.0, which cannot be"),
    ({"_class_name": "DDIMScheduler", "beta_schedule": "sigmoid"}, "beta_schedule='sigmoid', which DDIMScheduler does not know"),
])  # fmt: skip
@pytest.mark.parametrize("verb", ["sample", "plan", "cost"])
def test_what_is_not_known_is_refused(
    verb: str, config: dict[str, Any], sentence: str, folder: Path, tmp_path: Path
) -> None:
    old = (folder / "scheduler/scheduler_config.json").read_bytes()
    scheduled(folder, **config)
    command = words("sample", folder, tmp_path)
    result = dmq(*{"sample": command, "plan": ["plan", *command], "cost": ["cost", f"model={folder}"]}[verb])
    (folder / "scheduler/scheduler_config.json").write_bytes(old)
    assert result.code == 1 and sentence in result.sentence and not (tmp_path / "artifacts").exists()


def test_a_bare_network_with_its_scheduler_beside(folder: Path, tmp_path: Path) -> None:
    unet = folder / "unet"
    (unet / "scheduler_config.json").write_text(json.dumps(SD), encoding="utf-8")
    sampler = json.loads(dmq("plan", *words("sample", unet, tmp_path), "--json").out)["sampler"]
    (unet / "scheduler_config.json").unlink()
    assert sampler["taken"]["steps_offset"] == 1 and sampler["scheduler"] == "PNDMScheduler"


def test_no_guidance_is_told(text: Path, tmp_path: Path) -> None:
    prompts = f"cond.prompts={text / 'prompts.txt'}"
    sentence = "no guidance: images are of the estimate with the text alone; diffusers' StableDiffusionPipeline would use 7.5; give"
    command = ("plan", *words("sample", text, tmp_path, prompts))
    assert json.loads(dmq(*command, "--json").out)["guidance"].startswith(sentence)
    assert dmq(*command).out.count("no guidance") == 1
    assert "guidance" not in json.loads(dmq(*command, "cond.guidance=7.5", "--json").out)
    run = dmq(*words("calibrate", text, tmp_path, prompts, "calib.seeds=1000000-1000001"))
    assert run.code == 0 and run.err.count("no guidance") == 1, run.err
    assert "no guidance" not in dmq("plan", "sample", "model=ldm_digits", f"runtime.outputs={tmp_path}").out
