"""What evaluate traces for reports."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.results.trace import Trace, load_trace
from dmq_cli.store import read_json
from tests.chain import STAGES, STEPS, artifacts, counting, dmq, tiny_folder, words
from tests.test_conf import composed
from tests.tiny import SMALL

TAC = ("method=minmax", "correct=tac", "bits=w3a8", "correct.seeds=2000000-2000007")
TRACED = ("trace={seeds:3000000-3000004}", "runtime.batch_size=2")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of one level, ten units, and of images that the protocol measures."""
    return tiny_folder(tmp_path_factory.mktemp("model") / "small", **SMALL)


@pytest.fixture(scope="module")
def ran(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """evaluate with a trace of five samples: the outputs folder and what was printed."""
    outputs = tmp_path_factory.mktemp("outputs")
    with counting() as stages:
        result = dmq(*words("evaluate", small, outputs, *TAC, *TRACED, "--json"))
    assert result.code == 0, result.err
    assert sorted(stages) == sorted([*STAGES, "trace"])
    return outputs, json.loads(result.out)


@pytest.fixture(scope="module")
def trace(ran: tuple[Path, dict[str, Any]]) -> Trace:
    return load_trace(Path(ran[1]["run"]) / "artifacts" / "trace")


def test_the_trace_of_a_run_is_whole(trace: Trace) -> None:
    assert (trace.samples, len(trace.timesteps), trace.corrected) == (5, STEPS, True)
    blocks, sites = len(trace.blocks), len(trace.sites)
    assert blocks == 10 and sites >= 25 and trace.twins == ["quantized", "corrected"]
    shapes = {
        "trajectory": (STEPS + 1,),
        "eps": (STEPS,),
        "block_cosine": (STEPS, blocks),
        "block_error": (STEPS, blocks),
    }
    for name, shape in shapes.items():
        arrays = getattr(trace, name)
        assert list(arrays) == trace.twins or sorted(arrays) == sorted(trace.twins)
        assert all(array.shape == shape and array.dtype == np.float32 for array in arrays.values())
    assert trace.activations.shape == (STEPS, sites, 5) and (np.diff(trace.activations, axis=2) >= 0).all()
    assert trace.scales.shape == (STEPS, sites) and (trace.scales > 0).all()
    assert set(trace.channel_max["full"]) == set(trace.channels) and not trace.channel_max["transformed"]
    assert {name: (array.shape, array.dtype) for name, array in trace.images.items()} == dict.fromkeys(
        ["full", "quantized", "corrected"], ((5, 16, 16, 1), np.dtype(np.uint8))
    )


def test_errors_begin_with_quantization(trace: Trace) -> None:
    for side in trace.twins:
        assert trace.trajectory[side][0] == 0 and (trace.trajectory[side][1:] > 0).all() and (trace.eps[side] > 0).all()
        assert (trace.block_cosine[side] <= 1).all() and trace.block_cosine[side].min() < 0.9999
    assert (trace.eps["corrected"] != trace.eps["quantized"]).any()


def test_no_number_and_no_other_stage_depends_on_it(small: Path, ran: tuple[Path, dict[str, Any]]) -> None:
    outputs, printed = ran
    with counting() as stages:
        off = dmq(*words("evaluate", small, outputs, *TAC, "--json"))
        other = dmq(*words("evaluate", small, outputs, *TAC, "trace={seeds:3000007}", "--json"))
    assert stages == ["trace"], "off nothing, other seeds the trace alone"
    keys = set()
    for result in (off, other):
        again = json.loads(result.out)
        assert again["quantized"] == printed["quantized"]
        assert ("trace" in again["artifacts"]) == (result is other)
        keys |= {read_json(Path(record["run"]) / "manifest.json")["key"] for record in (again, printed)}
    assert len(keys) == 1, "a cell of a table has the name it always had"


def test_without_a_correction_there_are_two_sides(small: Path, ran: tuple[Path, dict[str, Any]]) -> None:
    result = dmq(*words("evaluate", small, ran[0], "method=minmax", "bits=w4a32", *TRACED, "--json"))
    assert result.code == 0, result.err
    trace = load_trace(Path(json.loads(result.out)["run"]) / "artifacts" / "trace")
    assert trace.twins == ["quantized"] == list(trace.eps) and sorted(trace.images) == ["full", "quantized"]
    assert trace.sites == [] and trace.activations.shape == (STEPS, 0, 5), "no input is quantized"


def test_evaluate_traces_unless_told_not_to() -> None:
    assert composed()["trace"] == {"seeds": "3000000-3000063"}
    assert composed("trace=null")["trace"] is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("trace={seeds:2000003}", "share the seeds 2000003-2000003"),
        ("trace={seeds:1000001-1000002}", "share the seeds 1000001-1000002"),
        ("trace=5", "trace=5 is not possible"),
    ],
)
def test_seeds_that_cannot_be_are_refused(given: str, said: str, small: Path, tmp_path: Path) -> None:
    result = dmq(*words("evaluate", small, tmp_path, *TAC, given))
    assert result.code == 2 and said in result.sentence and artifacts(tmp_path) == {}


def test_plan_knows_it(small: Path, tmp_path: Path) -> None:
    command = words("evaluate", small, tmp_path, *TAC, *TRACED, "--json")
    (row,) = [row for row in json.loads(dmq("plan", *command).out)["plan"] if row["stage"] == "trace"]
    assert row["work"] == pytest.approx(5.2 * 5 * STEPS)


def test_a_trace_that_lost_something_is_named(ran: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    folder = Path(ran[1]["run"]) / "artifacts" / "trace"
    for name in ("trace.json", "trace.safetensors", "images.npz"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / name).unlink()
        with pytest.raises(ArtifactCorruptError, match=name) as error:
            load_trace(tmp_path / name)
        assert str(error.value).endswith(".")
    summary = read_json(folder / "trace.json")
    del summary["blocks"]
    (tmp_path / "trace.json" / "trace.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(ArtifactCorruptError, match=r"is no whole trace .*blocks"):
        load_trace(tmp_path / "trace.json")
