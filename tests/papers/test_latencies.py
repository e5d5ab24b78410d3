"""Rows whose latency is measured: which benchmark backs them, what is shown of it, and how claims are judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dmq_cli import choices, papers
from dmq_cli.papers.cells import configured
from dmq_cli.papers.latencies import measuring, verdict
from dmq_cli.papers.runnable import blocked, folder_name, job, jobs
from dmq_cli.papers.transcript import PaperTable, Row, paper_table
from dmq_cli.papers.views import look_up
from dmq_cli.results.benchmark import Benchmark, write_benchmark
from dmq_cli.stages.prepare import correction
from dmq_cli.store import digest
from tests.results.test_benchmark import planted


def plant(tables: Path, table: PaperTable, row: Row, **seconds: float) -> Benchmark:
    """The cell of a row at digits scale, in which each subject takes so long."""
    words = job(table, row, "digits")
    config = configured(words)
    batch = str(config["benchmark"]["batches"][0])
    content = planted(**{name: [value] * 6 for name, value in seconds.items()})
    for subject in content["subjects"].values():
        subject["batches"] = {batch: subject["batches"]["4"]}
    section = correction(config["correct"], config["cond"])
    content |= {"config": {**config, "correct": section}, "weights": "trained", "estimates": 1}
    key = digest(words)
    folder = tables / folder_name(table.name, "digits") / f"ddim_digits-x-w8a8-{key[:8]}"
    write_benchmark(folder, content, {"key": key, "artifacts": {}})
    return Benchmark(content)


def rows_at(table: PaperTable, batch: str) -> tuple[Row, Row, Row]:
    full, other, ours = [row for row in table.rows if row.printed["Batch size"] == batch]
    return full, other, ours


def test_every_row_is_measured_by_a_benchmark_and_none_needs_anything() -> None:
    for name, count in (("tac_5", 8), ("tfmq_3", 2)):
        table = paper_table(name)
        assert table.verb == "benchmark" and len(jobs(choices.table(name), "digits")) == count
        for row in table.rows:
            assert blocked(table, row, "digits") is None and blocked(table, row, "paper") is None
            source = measuring(table, row)
            assert source is not None and source.printed.get("Batch size") == row.printed.get("Batch size")


def test_a_row_is_backed_by_the_benchmark_of_its_batch_size_and_full_precision_by_the_next_one(tmp_path: Path) -> None:
    table = paper_table("tac_5")
    full, other, ours = rows_at(table, "32")
    assert look_up(table, full, "digits", tmp_path).state == "not run"
    plant(tmp_path, table, other, eager=0.4, ours=0.1)
    assert [look_up(table, row, "digits", tmp_path).state for row in (full, other, ours)] == [
        "measured", "measured", "not run",
    ]  # fmt: skip
    assert {look_up(table, row, "digits", tmp_path).state for row in rows_at(table, "64")} == {"not run"}


def test_times_and_ratios_are_shown_with_what_they_are_and_where_they_were_measured(tmp_path: Path) -> None:
    table = paper_table("tac_5")
    _, other, ours = rows_at(table, "32")
    plant(tmp_path / "tables", table, other, eager=0.4, ours=0.1)
    plant(tmp_path / "tables", table, ours, eager=0.4, uncorrected=0.1, ours=0.1001)
    text = papers.write_table("tac_5", "digits", tmp_path)[1]
    assert "Rows: 3 measured, 9 not run." in text
    lines = [line for line in text.splitlines() if "| 32 |" in line]
    assert "| 36.18 | 40 (real) | 1 | 1 | measured |" in lines[0]
    assert "| 9.17 | 10 (real) | 3.95 | 4.00 (real) | measured |" in lines[1]
    assert "ddim_digits, samples of 1x16x16, 100 calls; Some CPU, avx512_vnni, 2 threads" in text
    assert "the correction adds at most 0.65 % at batch size 32: holds" in text
    assert "at every batch size (1.3 to 3.95 times in the paper): holds in all 2 comparisons" in text


@pytest.mark.parametrize(
    ("rule", "short"),
    [
        ({"latency": {"subject": "ours", "over": "eager", "least": 3.0}}, "holds"),
        ({"latency": {"subject": "ours", "over": "eager", "least": 5.0}}, "does not hold"),
        ({"latency": {"subject": "ours", "over": "eager", "least": 3.0, "batch": 9}}, "not measured"),
        ({"latency": {"subject": "nncf", "over": "eager", "least": 3.0}}, "not measured"),
        ({"bytes": {"subject": "ours", "over": "eager", "most": 1.0}}, "holds"),
        ({"bytes": {"subject": "ours", "over": "eager", "most": 0.9}}, "does not hold"),
    ],
)
def test_a_claim_is_judged_where_both_subjects_were_measured(rule: dict[str, Any], short: str) -> None:
    outcome = verdict({"says": "it is so", **rule}, [Benchmark(planted(eager=[0.4] * 6, ours=[0.1] * 6))])
    assert outcome.short == short


def test_what_noise_does_not_tell_apart_is_said() -> None:
    noisy = Benchmark(planted(eager=[0.1, 0.4, 0.1, 0.4, 0.2, 0.3], ours=[0.1] * 6))
    rule = {"says": "it is so", "latency": {"subject": "ours", "over": "eager", "least": 2.0}}
    assert verdict(rule, [noisy]).short == "not told apart"
