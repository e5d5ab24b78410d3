"""Every paper of conf/method: it composes, cites, and runs from calibration to its number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.chain import QUICK, artifacts, counting, dmq, tiny_folder, words
from tests.test_conf import METHODS, choices
from tests.tiny import SMALL

CORRECTED = {name for name in METHODS if name.startswith(("tac_", "ptqd"))} | {"tac"}
LEARNED = set(METHODS) - {"dynamic", "minmax", "ptq4dm", "svdquant"}

FAST = {"efficientdm", "ptqd", "tac", "tcaq"}
"""One of every kind; the others are slow tests."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **SMALL)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all methods: they share calibration sets, targets and the full-precision images."""
    return tmp_path_factory.mktemp("outputs")


def test_every_one_of_the_methods_is_swept() -> None:
    assert choices("method") == sorted(METHODS) and len(METHODS) == 30
    assert set(METHODS) > FAST and {c.split("_")[0] for c in CORRECTED} <= FAST
    assert len(CORRECTED) == 6 and len(LEARNED) == 26


def test_the_list_shows_each_with_its_citation() -> None:
    lines = dmq("list", "methods").out.splitlines()
    assert [line.split()[0] for line in lines] == METHODS
    assert all("arXiv:" in line and " transform=" in line for line in lines)


@pytest.mark.parametrize("method", [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in METHODS])
def test_a_method_runs_from_calibration_to_its_number(method: str, model: Path, outputs: Path) -> None:
    more = ["correct.seeds=2000000-2000007"] if method in CORRECTED else []
    command = [f"method={method}", "bits=w4a8", *QUICK, "budget.num_samples=8", *more, "--json"]
    with counting() as ran:
        result = dmq(*words("evaluate", model, outputs, *command))
    assert result.code == 0, result.err
    metrics = json.loads(result.out)
    assert (metrics["method"], metrics["bits"]) == (method, "w4a8") and "arXiv:" in metrics["cite"]
    assert {"correct", "sample", "evaluate"} <= set(ran)
    assert 5 < metrics["paired"]["psnr"] < 60 and metrics["quantized"]["fd"] != metrics["fp"]["fd"]
    widths = [metrics["policy"][f"{role}.weight"] for role in ("edge.in", "edge.out", "resnet.conv1")]
    assert widths == [4 if method == "eda_released" else 8, 8, 4], "as released, its first convolution is like the rest"
    shared = artifacts(outputs)
    assert shared["sample_fp"] == shared["evaluate_fp"] == 1 and shared["calibset"] <= 5, "by all methods"
    states = [(Path(metrics["run"]) / "artifacts" / s / "quantizers.safetensors") for s in ("calibrate", "reconstruct")]
    assert (states[0].read_bytes() != states[1].read_bytes()) == (method in LEARNED)
