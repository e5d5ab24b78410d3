"""The top of a page: papers in full, options, widths in words, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from dmq_cli.report import heading
from dmq_cli.report.compare import compare, write_comparison
from dmq_cli.report.html import write_report
from dmq_cli.results.runs import Result, load_result
from dmq_cli.store import write_json
from tests.reports import runs

CITE = "Somebody et al., A Method of Quantizing, A Conference 2026"


def result(outputs: Path, name: str, finished: str = "", **changes: Any) -> Result:
    folder = runs.run(outputs, runs.metrics("tac", **changes), name, kept=False)
    write_json(folder / "status.json", {"status": "done", **({"finished": finished} if finished else {})})
    return load_result(folder)


def test_methods_are_told_by_their_papers_with_every_set_of_options(tmp_path: Path) -> None:
    config = {"method": {"name": "tac", "cite": CITE}}
    plain = result(tmp_path, "a", config=config)
    other = result(tmp_path, "b", config=config, overrides=["correct.ner=false", "calib=normal_t"])
    assert heading.in_full({"a": plain}) == [("tac", CITE), ("W3A8", "weights of 3 bits, activations of 8 bits")]
    terms = dict(heading.in_full({"a": plain, "b": other}))
    assert terms["tac"] == f"{CITE}; with no options | correct.ner=false calib=normal_t"


def test_a_method_without_a_source_is_told_so(tmp_path: Path) -> None:
    run = result(tmp_path, "a", config={"method": {"name": "tac"}})
    assert "no source is named" in dict(heading.in_full({"a": run}))["tac"]


def test_days_are_those_when_runs_ended_and_old_cells_have_none(tmp_path: Path) -> None:
    first = result(tmp_path, "a", "2026-11-21T10:00:00+00:00")
    last = result(tmp_path, "b", "2026-11-29T10:00:00+00:00")
    cell = load_result(runs.cell(tmp_path, "t", runs.metrics("tac")))
    assert heading.days({"b": last, "a": first, "c": cell}) == ["2026-11-21", "2026-11-29"]
    assert heading.days({"a": first}) == ["2026-11-21"] and heading.days({"c": cell}) == []
    newer = replace(cell, manifest={**cell.manifest, "finished": "2026-11-30T10:00:00+00:00"})
    assert heading.days({"b": last, "c": newer}) == ["2026-11-29", "2026-11-30"]


def test_pages_begin_with_papers_and_dates(tmp_path: Path) -> None:
    results = [result(tmp_path, name, "2026-11-21T10:00:00+00:00") for name in "ab"]
    write_report(results[:1], tmp_path / "report.html")
    write_comparison(compare(results), tmp_path / "compare.html")
    for page in ("report.html", "compare.html"):
        top = (tmp_path / page).read_text(encoding="utf-8").partition("</header>")[0]
        dates = "finished on <time>2026-11-21</time>; page written on <time>20"
        assert "Nobody, 2026" in top and dates in top
