"""Samplers from the command line: keys, tables by call and by step, loaded runs, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import dmq_cli
from dmq_cli.errors import ConfigError
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepared
from tests.chain import IMAGES, QUICK, STEPS, artifact, dmq, images, tiny_folder, words
from tests.test_conf import composed
from tests.tiny import SMALL

CALLS = {"plms": STEPS + 1, "dpmpp_2s": 2 * STEPS, "euler": STEPS, "ddpm": STEPS}
PARTS = ("correct=tac", "correct.seeds=2000000-2000007", "bits=w4a8", *QUICK)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **SMALL)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("plms", "method=tfmq"),
        ("dpmpp_2s", "method=tdq"),
        ("euler", "method=minmax"),
        ("ddpm", "method=minmax"),
        ("plms", "method=efficientdm"),
        ("dpmpp_2s", "method=tdq_qat"),
    ],
)
def test_a_corrected_run(name: str, parts: str, model: Path, tmp_path: Path) -> None:
    """tfmq and efficientdm have tables by step, one row less than PLMS has calls, which calls one timestep twice; the trainings go along its
    trajectories; tdq calibrates on trajectories of its own."""
    result = dmq(*words("sample", model, tmp_path, parts, f"sampler={name}", *PARTS, "train.loss=distill"))
    assert result.code == 0, result.err
    tables = load_file(artifact(tmp_path, "correct") / "tables.safetensors")
    assert len(tables["gain"]) == len(tables["bias"]) == CALLS[name]
    state = load_file(artifact(tmp_path, "reconstruct") / "quantizers.safetensors")
    assert len(state["time_grid.timesteps"]) == CALLS[name] - (name == "plms")
    sampled = images(tmp_path, "sample")
    assert sampled.shape == (IMAGES, 16, 16, 1) and len(np.unique(sampled.reshape(IMAGES, -1), axis=0)) == IMAGES
    (run,) = (tmp_path / "runs" / "sample").iterdir()
    loaded = dmq_cli.load(run)
    pixels = ((loaded.sample("0-3").permute(0, 2, 3, 1) + 1) * 127.5).round().numpy()
    assert np.abs(pixels - sampled[:4].astype(float)).max() <= 1
    times = loaded.scheduler.timesteps.tolist()
    assert torch.isfinite(loaded(torch.zeros(1, 1, 16, 16), torch.tensor([times[0]]))).all()
    if name == "plms":
        rows = state["time_grid.timesteps"].tolist()
        assert len(set(times)) == len(rows) < len(times) and sorted(rows) == sorted(set(times)), (
            "a row for every timestep"
        )
        with pytest.raises(ConfigError, match=rf"2 rows for timestep {times[1]}"):
            loaded(torch.zeros(1, 1, 16, 16), torch.tensor([times[1]]))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sampler=plms", "sampler.eta=0.5"], "sampler.eta=0.5 is not possible with PLMS, which adds no noise"),
        (["sampler=unipc", "correct=ptqd", "correct.variance=on"], "needs a sampler that adds noise"),
        (["sampler=dpmpp_2s", "sampler.num_inference_steps=501"], "use 1 to 500, as each step takes 2 of them"),
        (["sampler=dpmpp_2m", "+sampler.clip_sample=true"], "clip_sample"),
        (["sampler.spacing=ldm", "sampler.num_inference_steps=300"], "visits timestep 1000"),
    ],
)
def test_what_cannot_be_is_refused(overrides: list[str], sentence: str, model: Path, tmp_path: Path) -> None:
    result = dmq(*words("sample", model, tmp_path, *overrides))
    assert result.code == 2 and sentence in result.sentence and not (tmp_path / "artifacts").exists()


def test_the_plan_counts_calls() -> None:
    def evaluations(name: str) -> float:
        config = composed(f"sampler={name}", "sampler.num_inference_steps=7", "seeds=0-9")
        arguments = prepared({**config, "stage": "sample"})
        return float(NODES["sample_fp"].cost(*arguments))

    assert [evaluations(name) for name in ("ddim", "plms", "dpmpp_2s", "unipc")] == [70, 80, 140, 70]
