"""`dmq compare` and `dmq report` on the command line: exactly what was planted differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dmq_cli import choices
from dmq_cli.cli.app import main
from dmq_cli.report.compare import ABSENT, as_text, compare
from dmq_cli.results.runs import load_result
from dmq_cli.store import read_json, write_json
from tests.reports import runs


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """Two runs of one method that differ in lambda1, in a key that one of them lacks, and in the commit."""
    first = runs.metrics("tac")
    second = runs.metrics(
        "tac", fd=0.9, config={"correct": {**first["config"]["correct"], "lambda1": 0.1, "mask": "x"}}
    )
    first, second = ({**metrics, "seconds": {}} for metrics in (first, second))
    folders = runs.run(tmp_path, first, "one"), runs.run(tmp_path, second, "two", kept=False)
    manifest = read_json(folders[1] / "manifest.json")
    manifest["environment"]["git"]["commit"] = "decade"
    write_json(folders[1] / "manifest.json", manifest)
    return folders


def test_exactly_the_planted_differences_are_found(pair: tuple[Path, Path]) -> None:
    comparison = compare([load_result(folder) for folder in pair])
    assert {difference.key: difference.values for difference in comparison.configuration} == {
        "correct.lambda1": [0.5, 0.1],
        "correct.mask": [ABSENT, "x"],
    }
    assert {difference.key: difference.values for difference in comparison.circumstances} == {
        "environment.git.commit": ["c0ffee", "decade"]
    }
    assert list(comparison.runs) == ["tac W3A8 (lambda1 0.5, mask None)", "tac W3A8 (lambda1 0.1, mask x)"]
    (group,) = comparison.numbers
    fd = group.numbers[0]
    assert fd.key == "fd" and [number.value for number in fd.values.values()] == [0.6, 0.9]
    ((label, (delta, judged)),) = fd.deltas.items()
    assert label.endswith("mask x)") and delta == pytest.approx(0.3) and judged == "outside the noise"
    text = as_text(comparison)
    assert "correct.lambda1  0.5" in text and "0.90 (+0.30 outside the noise)" in text


def test_a_run_and_itself_differ_in_nothing(pair: tuple[Path, Path], tmp_path: Path) -> None:
    again = runs.run(tmp_path, read_json(pair[0] / "metrics.json"), "again", kept=False)
    comparison = compare([load_result(pair[0]), load_result(again)])
    assert comparison.configuration == [] and comparison.circumstances == []
    assert all(delta == 0 for number in comparison.numbers[0].numbers for delta, _ in number.deltas.values())
    assert as_text(comparison).count("nothing differs") == 2


def test_a_run_from_when_metrics_were_a_list_differs_in_nothing(tmp_path: Path) -> None:
    now = choices.protocol("digits")
    rest = {key: value for key, value in now.items() if key != "metrics"}
    options = {"splits": 10, "kid_subset_size": 200, "kid_subsets": 100, "prc_neighbourhood": 3}
    then = {**rest, **options, "metrics": ["fd", "is", "kid", "prc"]}
    folders = [
        runs.run(tmp_path, runs.metrics("tac", config={"protocol": protocol}), name, kept=False)
        for name, protocol in (("now", now), ("then", then))
    ]
    assert compare([load_result(folder) for folder in folders]).configuration == []


def test_numbers_of_two_protocols_are_never_subtracted(pair: tuple[Path, Path]) -> None:
    metrics = read_json(pair[1] / "metrics.json")
    write_json(pair[1] / "metrics.json", {**metrics, "protocol": {**metrics["protocol"], "hash": "other"}})
    comparison = compare([load_result(folder) for folder in pair])
    assert len(comparison.numbers) == 2 and not any(n.deltas for group in comparison.numbers for n in group.numbers)
    assert "not compared with these" in as_text(comparison)


def command(*words: str | Path) -> tuple[int, str, str]:
    done = CliRunner().invoke(main, [str(word) for word in words])
    return done.exit_code, done.stdout, done.stderr


def test_compare_writes_a_page_and_json(pair: tuple[Path, Path], tmp_path: Path) -> None:
    code, out, _ = command("compare", *pair, "--to", tmp_path / "c.html", "--json")
    printed: dict[str, Any] = json.loads(out)
    assert (
        code == 0
        and printed["configuration"]["correct.lambda1"] == [0.5, 0.1]
        and printed["page"] == str(tmp_path / "c.html")
    )
    page = (tmp_path / "c.html").read_text(encoding="utf-8")
    assert page.count("<img ") == 5 and "correct.<wbr>lambda1" in page
    assert page.count("neither trace nor samples are on this machine") == 1


def test_a_report_of_one_run_lies_in_its_folder(tmp_path: Path) -> None:
    folder = runs.run(tmp_path, runs.metrics("minmax"), kept=False, traced=False)
    code, out, _ = command("report", folder, "--json")
    printed = json.loads(out)
    assert (
        code == 0
        and printed["report"] == str(folder / "report.html")
        and (folder / "report.html").stat().st_size == printed["bytes"]
    )
    assert printed["shown"] == ["Distance against cost"] and "not on this machine" in str(printed["missing"])


def test_bad_runs_are_one_sentence(tmp_path: Path) -> None:
    runs.cell(tmp_path, "demo", runs.metrics("tac"))
    for words, sentence, expected in (
        (("report", tmp_path / "nowhere"), "which is no folder", 2),
        (("compare", tmp_path / "tables" / "demo"), "with one run", 2),
        (("report", tmp_path), "has no metrics.json", 1),
    ):
        code, _, err = command(*words)
        first, message = err.splitlines()
        assert code == expected and first.startswith(f"{words[0]}: reading") and sentence in message, err
