"""metrics.json of any schema is read as the same evaluation, and what is no evaluation is refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.metrics.shown import results
from dmq_cli.report import describe
from dmq_cli.results.record import (
    SCHEMA,
    SIDES,
    UNITS,
    Number,
    as_evaluation,
    as_metrics,
    metrics_files,
    over_ranges,
    read_evaluation,
)
from tests.reports import runs

TABLES = Path(__file__).resolve().parents[2] / "outputs" / "tables"


def test_every_committed_cell_is_read_and_written_again_without_loss() -> None:
    files = [file for folder in sorted(TABLES.iterdir()) for file in metrics_files(folder)]
    for file in files:
        evaluation, manifest = read_evaluation(file.parent)
        recorded = json.loads(file.read_text(encoding="utf-8"))
        written = as_metrics(evaluation)
        assert as_evaluation(written) == evaluation, "what is written is what was read"
        for side in SIDES:
            assert written[side] == recorded[side], (file, side)
        assert written["intervals"] == {side: known for side, known in recorded["intervals"].items() if known}
        assert written["artifacts"] == manifest["artifacts"] and written["schema"] == SCHEMA
    assert len(files) >= 200


def test_an_older_file_is_filled_in_from_what_it_says() -> None:
    older = {key: value for key, value in runs.metrics("tac").items() if key not in ("overrides", "fp_seeds", "cost")}
    config = {**older["config"], "bits": {"name": "mine", "weight": 3, "act": 8}}
    command = "dmq evaluate method=tac correct.lambda1=0.1 runtime.threads=1"
    evaluation = as_evaluation({**older, "config": config, "bits": "mine", "command": command})
    assert evaluation.overrides == ("correct.lambda1=0.1",) and evaluation.bits == "w3a8"
    assert evaluation.fp_seeds == evaluation.seeds and evaluation.cost is None and not evaluation.random


def test_a_file_of_a_later_schema_is_refused() -> None:
    with pytest.raises(ArtifactCorruptError, match=f"has schema {SCHEMA + 1}, but this version of dmq reads {SCHEMA}"):
        as_evaluation({**runs.metrics("tac"), "schema": SCHEMA + 1})


@pytest.mark.parametrize(("key", "value"), [("fp", None), ("seeds", "0-9"), ("config", []), ("method", 3)])
def test_another_kind_is_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(ArtifactCorruptError, match=f"its {key} is of another kind"):
        as_evaluation({**runs.metrics("tac"), key: value})


def test_a_number_over_ranges_has_mean_deviation_and_each() -> None:
    (number,) = over_ranges([{"fd": 1.0}, {"fd": 2.0}, {"fd": 6.0}], {"fd": [0.0, 9.0]}).values()
    assert number == Number(3.0, None, (1.0, 2.0, 6.0)) and number.deviation == pytest.approx(7.0**0.5)
    (single,) = over_ranges([{"psnr": 1.0}], {"psnr": [0.5, 2.5]}).values()
    assert single == Number(1.0, (0.5, 2.5), (), "dB") and single.half == 1.0 and single.deviation is None


def test_units_are_those_that_the_metrics_say() -> None:
    assert {key: how.unit for key, how in results().items() if how.unit} == UNITS


def test_a_run_without_psnr_or_fd_is_described_and_ranked() -> None:
    metrics = {
        **runs.metrics("tac"),
        "fp": {"is": 8.0},
        "quantized": {"is": 7.0},
        "paired": {},
        "over_fp": {},
        "intervals": {},
    }
    text = describe({**metrics, "policy": {"a.weight": 3, "a.input": 8}, "run": "r"})
    assert "IS-digits" in text and "PSNR" not in text and "FD" not in text
