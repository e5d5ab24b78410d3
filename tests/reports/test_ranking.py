"""The jobs of a sweep are ranked among those that they can be compared with, and numbers have the decimals of their metric."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from dmq_cli.report.sweep_table import as_csv, as_lines, ranked
from dmq_cli.results.sweeps import Records
from dmq_cli.store import digest
from tests.reports import runs


def job(outputs: Path, word: str, found: dict[str, Any]) -> None:
    """A finished job of the sweep `s` with these numbers."""
    table = word.replace("=", "-")
    folder = runs.cell(outputs, table, found)
    record = {"status": "done", "overrides": [word], "cell": str(folder.relative_to(outputs)), "run": None}
    Records(outputs, "s").write(digest(word), record)


def test_jobs_of_several_samplers_are_ranked_apart(tmp_path: Path) -> None:
    few: dict[str, Any] = {"config": {"sampler": {"num_inference_steps": 5, "eta": 0.0}}}
    cells: list[tuple[str, float, dict[str, Any]]] = [
        ("tac", 0.9, {}),
        ("tdq", 0.7, {}),
        ("eda", 0.5, few),
        ("quest", 0.8, few),
    ]
    for method, fd, more in cells:
        job(tmp_path, f"method={method}", runs.metrics(method, fd=fd, **more))
    sweep = ranked(tmp_path, "s")
    head, *rows = as_lines(sweep)
    assert head[:3] == ["", "job", "FD-digits"] and head[-1] == "measured"
    groups = [[row for row in rows if f", {steps} steps" in row[-1]] for steps in (10, 5)]
    assert [[(row[0], row[1]) for row in group] for group in groups] == [
        [("1", "method=tdq"), ("2", "method=tac")],
        [("1", "method=eda"), ("2", "method=quest")],
    ]
    listed = list(csv.DictReader(io.StringIO(as_csv(sweep))))
    assert sorted((line["rank"], line["job"]) for line in listed) == sorted((row[0], row[1]) for row in rows)


def test_numbers_have_the_decimals_of_their_metric(tmp_path: Path) -> None:
    protocol = {**runs.PROTOCOL, "columns": {"kid": "KID"}}
    numbers: dict[str, Any] = {
        "protocol": protocol,
        "quantized": {"kid": 0.00412},
        "fp": {"kid": 0.0002},
        "paired": {"ssim": 0.98765},
    }
    job(tmp_path, "method=tac", runs.metrics("tac", **numbers))
    ((_, job_name, kid, ssim),) = as_lines(ranked(tmp_path, "s"))[1:]
    assert (job_name, kid, ssim) == ("method=tac", "0.0041", "0.988")
