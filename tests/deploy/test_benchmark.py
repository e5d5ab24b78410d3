"""dmq benchmark: what it refuses, and a measured run of a tiny model."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from dmq_cli.results.benchmark import read_benchmark
from dmq_cli.store import read_json
from tests.chain import dmq, tiny_folder, words


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("benchmark.subjects=[eagre]", "There is no subject eagre. Did you mean eager?"),
        ("benchmark.subjects=[]", "name one or several"),
        ("benchmark.subjects=eager", "write benchmark.subjects=[eager]"),
        ("benchmark.batches=4", "write benchmark.batches=[4]"),
        ("benchmark.subjects=[eager,eager]", "each once"),
        ("benchmark.batches=[0]", "benchmark.batches=[0] is not possible"),
        ("benchmark.rounds=0", "benchmark.rounds=0 is not possible"),
        ("benchmark.fitted=nois", "use noise or run"),
        ("benchmark.sample_size=8", "add model.weights=random"),
    ],
)
def test_settings_that_cannot_be_are_refused(word: str, says: str, tmp_path: Path) -> None:
    result = dmq(*words("benchmark", tiny_folder(tmp_path / "tiny"), tmp_path, word))
    assert result.code == 2 and says in result.sentence, result.err
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("openvino", "onnxruntime")),
    reason="OpenVINO and onnxruntime are extras",
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_subjects_are_measured_and_a_cell_of_a_table_is_not_measured_again(tmp_path: Path) -> None:
    few = ("benchmark.batches=[1,2]", "benchmark.rounds=5", "benchmark.turn=0.01", "table.name=t")
    command = words(
        "benchmark", tiny_folder(tmp_path / "tiny"), tmp_path, "method=tac", "bits=w8a8",
        "benchmark.subjects=[eager,ours,onnx,pytorch,simulated]", *few,
    )  # fmt: skip
    result = dmq(*command)
    assert result.code == 0, result.err
    assert "eager" in result.out and "real" in result.out and "images/s" in result.out
    (cell,) = (tmp_path / "tables" / "t").iterdir()
    measured = read_benchmark(cell)
    assert list(measured.subjects) == ["eager", "ours", "onnx", "pytorch", "simulated"] and measured.batches == [1, 2]
    assert measured.content["machine"]["threads"] == 1 and measured.content["weights"] == "trained"
    assert [name for name, subject in measured.subjects.items() if subject["simulated"]] == ["simulated"]
    for subject in measured.subjects.values():
        assert subject["peak_mib"] > 50 and subject["bytes"] > 1000
        assert all(
            len(latency["turns"]) == 5 and latency["p95"] >= latency["p50"] > 0
            for latency in subject["batches"].values()
        )
    assert not list(tmp_path.glob(".benchmark-*")), "what subjects ran from is removed"
    before = (cell / "benchmark.json").read_bytes()
    again = json.loads(dmq(*command, "--json").out)
    assert again["cell"] == str(cell) and "run" not in again and (cell / "benchmark.json").read_bytes() == before
    (run,) = (tmp_path / "runs" / "benchmark").iterdir()
    assert read_json(run / "status.json")["status"] == "done" and read_benchmark(run).batches == [1, 2]
