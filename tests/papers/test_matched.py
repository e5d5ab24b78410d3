"""Matched widths: where a method without learning falls as far here as a paper prints, and what tables make of it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmq_cli import papers
from dmq_cli.papers import matched
from dmq_cli.papers.matched import Match, as_csv, match, matched_row
from dmq_cli.papers.runnable import job, jobs
from dmq_cli.papers.transcript import paper_table
from tests.papers.planted import plant, row_of

PIXELS = {f"w{weight}a{act}": 1.0 for weight in range(2, 9) for act in range(3, 9)}
PIXELS |= {"w8a6": 1.1, "w8a5": 5.0, "w8a4": 40.0, "w8a3": 80.0}


def test_a_width_is_matched_where_the_quotient_is_nearest() -> None:
    """TDQ's Table 2 prints Min-Max at W8A8, W8A7, W8A6 on CIFAR-10: 8.73, 34.61, 332.15 over 5.59."""
    by_bits = {line.bits: line for line in match({("ddim_digits", "minmax"): PIXELS})}
    assert {bits: line.digits_bits for bits, line in by_bits.items()} == {
        "w8a8": "w8a6",
        "w8a7": "w8a5",
        "w8a6": "w8a3",
    }
    line = by_bits["w8a6"]
    assert float(line.times) == pytest.approx(332.15 / 5.59, rel=5e-3) and line.digits_times == "80"
    assert (line.model, line.digits_model) == ("ddim_cifar10", "ddim_digits") and line.anchor == "tdq_2: Min-Max W8A6"


def test_only_the_width_that_a_paper_narrows_changes() -> None:
    """PTQ4DM stands in where no Min-Max is printed; of 4/8 the weights change, and of 3/6 too, at the same activations."""
    curve = {f"w{weight}a{act}": 3.0 ** (8 - weight) for weight in range(2, 9) for act in (8, 6)}
    by_bits = {line.bits: line for line in match({("ddim_digits", "ptq4dm"): curve, ("ddim_digits", "minmax"): PIXELS})}
    assert by_bits["w4a8"].digits_bits == "w6a8" and by_bits["w4a8"].anchor == "tac_1: PTQ4DM [47] 4/8", (
        "37.79 / 4.22 is 9"
    )
    assert by_bits["w3a6"].digits_bits == "w5a6" and by_bits["w8a8"].anchor.startswith("tdq_2: Min-Max")
    assert match({}) == []


def test_the_file_is_what_it_was_made_of() -> None:
    lines = match({("ddim_digits", "minmax"): PIXELS})
    assert [Match(**line) for line in csv.DictReader(io.StringIO(as_csv(lines)))] == lines != []


@pytest.fixture
def planted_matches(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    lines = [Match("ddim_cifar10", "w8a6", "x", "59.4", "ddim_digits", "w8a3", "57")]
    monkeypatch.setattr(matched, "_lines", lambda: lines)
    yield


def test_rows_run_at_both_widths(planted_matches: None) -> None:
    table = paper_table("tdq_2")
    ours, other = row_of(table, "Ours", "W8A6", "DDIM"), row_of(table, "Ours", "W8A7", "DDIM")
    row = matched_row(table, ours)
    assert (
        row is not None
        and matched_row(table, other) is None
        and matched_row(table, row_of(table, "FP", "FP", "DDIM")) is None
    )
    at_both = [job(table, ours, "digits"), job(table, row, "digits")]
    assert [[word for word in words if word.startswith("bits=")] for words in at_both] == [["bits=w8a6"], ["bits=w8a3"]]
    from dmq_cli.choices import table as section

    listed = jobs(section("tdq_2"), "digits")
    assert all(words in listed for words in at_both) and sum("bits=w8a3" in words for words in listed) == 5
    assert not any("bits=w8a3" in words for words in jobs(section("tdq_2"), "paper"))


@pytest.mark.slow
def test_claims_are_judged_at_both_widths(planted_matches: None, tmp_path: Path) -> None:
    table = paper_table("tdq_2")
    for method, fd, fd_matched in (("Ours", 0.9, 2.0), ("PTQ4DM [18]", 0.9, 3.0), ("Min-Max", 0.95, 30.0)):
        printed = row_of(table, method, "W8A6", "DDIM")
        row = matched_row(table, printed)
        assert row is not None
        plant(tmp_path / "tables", table, printed, fd)
        plant(tmp_path / "tables", table, row, fd_matched)
    text = papers.write_table("tdq_2", "digits", tmp_path)[1]
    assert "| matched bits | FD-digits ↓ at these bits | IS-digits ↑ at these bits | state |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| Ours | W8A6 | 5.71 | 0.90")]
    assert "| w8a3 | 2.00 [1.90, 2.10] |" in line
    (line,) = [line for line in text.splitlines() if line.startswith("| Ours | W8A7")]
    assert "|  |  |  | not run |" in line
    (claim,) = [
        line
        for line in text.splitlines()
        if line.startswith("* claim: at matched widths, ") and "PTQ4DM [18] at DDIM w8a6 (2 < 3" in line
    ]
    assert "olds" in claim
