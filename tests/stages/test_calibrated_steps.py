"""Calibration at other steps than those that are sampled with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from dmq_cli.errors import ConfigError
from dmq_cli.stages import build
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepare
from dmq_cli.store import read_json, write_json
from dmq_cli.wrap import freeze
from tests.chain import FEW, QUICK, counting, dmq, words
from tests.test_conf import composed
from tests.tiny import one_sentence

FOUR = ("sampler.num_inference_steps=4", "budget.num_samples=8", "seeds=0-3", *QUICK)


def prepared(small: Path, *more: str) -> dict[str, object]:
    runtime = [word for word in FEW if not word.startswith(("runtime", "sampler"))]
    return prepare(
        composed("model=folder", f"model.path={small}", "model.name=small", "stage=sample", *runtime, *FOUR, *more)
    )


def test_by_default_calibration_sees_the_sampler(small: Path) -> None:
    config = prepared(small)
    assert config["calibrated_steps"] is None and config["calib_sampler"] == config["sampler"]
    other = prepared(small, "calibrated_steps=2")
    assert other["calib_sampler"] == {**other["sampler"], "num_inference_steps": 2}  # type: ignore[dict-item]


def trained_at(total: int, small: Path, folder: Path) -> Path:
    """The model, as if it had been trained at so many timesteps."""
    shutil.copytree(small, folder)
    file = folder / "scheduler" / "scheduler_config.json"
    write_json(file, {**read_json(file), "num_train_timesteps": total})
    return folder


@pytest.mark.parametrize("scheme", ["steps_n", "tdq", "steps_n_qat", "tdq_qat"])
def test_tables_of_scales_are_of_the_model_s_own_timesteps(scheme: str, small: Path, tmp_path: Path) -> None:
    usual, longer = prepared(small, f"scheme={scheme}"), trained_at(4000, small, tmp_path / "longer")
    config = prepared(longer, f"scheme={scheme}")
    assert config["training_timesteps"] == 4000 and "training_timesteps" not in usual
    attached = build.attached(config, {"device": "cpu"})
    totals = {getattr(q.scale, "total", None) for q in attached.quantizers("input", "q", "k", "v", "prob").values()}
    assert totals == {4000} and "training_timesteps" not in prepared(longer, "scheme=minmax")
    node, keyed = NODES["calibrate"], {name: value for name, value in config.items() if name != "training_timesteps"}
    assert node.identity(config) != node.identity(keyed), "what was made with rows of 1000 is not taken from a cache"


def test_more_sets_than_timesteps_of_the_model_are_refused(small: Path, tmp_path: Path) -> None:
    shorter = trained_at(100, small, tmp_path / "shorter")
    with pytest.raises(ConfigError, match="num=101 sets over 100 timesteps") as refused:
        prepared(shorter, "scheme=steps_n", "scheme.sets=101")
    one_sentence(refused.value)


@pytest.mark.slow
def test_networks_of_scales_tell_timesteps_apart_that_share_a_step(small: Path, tmp_path: Path) -> None:
    more = ("method=tdq", "calibrated_steps=2")
    result = dmq(*words("sample", small, tmp_path, *FOUR, *more, "--json"))
    assert result.code == 0, result.err
    config = prepared(small, *more)
    folder = Path(json.loads(result.out)["artifacts"]["reconstruct"])
    attached = build.attached(config, {"device": "cpu"}, folder)
    assert attached.grid.timesteps.tolist() == [500, 0]
    assert attached.grid(torch.tensor([750, 500])).tolist() == [0, 0], "both belong to the step at 500"
    freeze(attached)
    swept = 0
    for name, quantizer in attached.quantizers("input", "q", "k", "v", "prob").items():
        table = quantizer.scale.scale
        assert isinstance(table, torch.Tensor) and table.shape == (1000,), name
        swept += bool(table[750] != table[500])
    assert swept >= 20


def test_tables_by_step_say_where_rows_come_from_neighbours(small: Path, tmp_path: Path) -> None:
    command = words("sample", small, tmp_path, *FOUR, "method=tfmq", "recon=none")
    result = dmq(*command, "calibrated_steps=2")
    assert result.code == 0, result.err
    assert "tables by step: 2 of 4 timesteps take the row of the nearest calibrated one" in result.err
    for more in (["calibrated_steps=4"], [], ["calibrated_steps=2", "scheme=minmax"]):
        assert "tables by step" not in dmq(*command, *more).err


@pytest.mark.parametrize("scheme", ["tfmq", "quest", "ptqd_mixed", "tcaq", "efficientdm"])
@pytest.mark.parametrize("spacing", ["uniform", "quad"])
def test_timesteps_far_from_every_calibrated_one_are_refused(
    scheme: str, spacing: str, small: Path, tmp_path: Path
) -> None:
    more = (f"scheme={scheme}", f"sampler.spacing={spacing}", "calibrated_steps=1")
    with counting() as ran:
        result = dmq(*words("sample", small, tmp_path, *FOUR, *more))
    far = 750 if spacing == "uniform" else 800
    assert result.code == 2 and f"timestep {far} of the sampler is near none of them" in result.sentence
    assert "calibrated_steps" in result.sentence and ran == [] and not (tmp_path / "artifacts").exists()


@pytest.mark.parametrize(
    "scheme", ["minmax", "tdq", "steps_n", "dynamic", "lsq", "pact", "tdq_qat", "steps_n_qat", "dynamic_qat"]
)
def test_schemes_without_tables_by_step_are_not(scheme: str, small: Path) -> None:
    assert prepared(small, f"scheme={scheme}", "calibrated_steps=1")


def test_one_calibration_serves_samplers_of_several_lengths(small: Path, tmp_path: Path) -> None:
    command = words("sample", small, tmp_path, *FOUR, "method=tfmq", "recon=none", "calibrated_steps=4")
    with counting() as ran:
        assert dmq(*command).code == 0
    assert ran.count("calibrate") == ran.count("reconstruct") == 1
    with counting() as ran:
        assert dmq(*command, "sampler.num_inference_steps=2").code == 0
    assert sorted(ran) == ["correct", "sample", "sample_fp"]
    with counting() as ran:
        assert dmq(*command, "calibrated_steps=null").code == 0
    assert ran == [], "the same steps by another name"
