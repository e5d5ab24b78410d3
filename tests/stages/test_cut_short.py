"""Calibration sets whose steps are others than before have another version, and no others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from dmq_cli.stages import build
from dmq_cli.stages.nodes import NODES, versions
from dmq_cli.stages.prepare import prepare
from tests.test_conf import composed

Config = Mapping[str, Any]


def differs(config: Mapping[str, Any]) -> bool:
    """Whether the calls that calib=uniform keeps are not every k-th one, as before."""
    prepared = prepare(config)
    total, num = len(build.sampler(prepared, "calib_sampler")[1].timesteps), prepared["calib"]["num_steps"]
    before = list(range(0, total, max(1, total // num)))[:num]
    return bool(build.make(prepared["calib"]).steps(total) != before)


@pytest.mark.parametrize(
    ("words", "other"),
    [
        ("sampler.num_inference_steps=10", False),
        ("sampler.num_inference_steps=21", False),
        ("sampler.num_inference_steps=22", True),
        ("sampler.num_inference_steps=40", False),
        ("sampler.num_inference_steps=50", True),
        ("calibrated_steps=50", True),
        ("sampler.num_inference_steps=50 calibrated_steps=10", False),
        ("sampler=plms sampler.num_inference_steps=20", False),
        ("sampler=plms sampler.num_inference_steps=21", True),
        ("sampler=dpmpp_2s sampler.num_inference_steps=10", False),
        ("sampler=dpmpp_2s sampler.num_inference_steps=11", True),
        ("sampler=ddim sampler.num_inference_steps=100 sampler.spacing=quad", True),
        ("sampler=ddim sampler.num_inference_steps=100", False),
        ("sampler=ddim sampler.num_inference_steps=96 sampler.spacing=ldm calib.num_steps=96", True),
        ("sampler=ddim sampler.num_inference_steps=96 calib.num_steps=96", False),
        ("sampler.num_inference_steps=50 calib=normal_t", False),
    ],
)
def test_a_calibration_set_whose_steps_are_others_now_is_of_another_version(words: str, other: bool) -> None:
    config = {**composed("model=ddim_digits", "trace=null", *words.split()), "stage": "calibset"}
    node = NODES["calibset"]
    assert (node.version_for(prepare(config)) == node.version + 1) == other == versions(config)["calibset"] - 1
    assert config["calib"]["_target_"] != "dmq_cli.calib.Uniform" or differs(config) == other
