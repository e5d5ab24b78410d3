"""What people read of a paper's table: Markdown, CSV, LaTeX, the overview; and what must not stand in one column."""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from dmq_cli import papers
from dmq_cli.cli.commands.tables import main
from dmq_cli.errors import ConfigError
from dmq_cli.papers import counting, views
from dmq_cli.papers.claims import Verdict
from dmq_cli.papers.counting import cost
from dmq_cli.papers.runnable import job
from dmq_cli.papers.transcript import paper_table
from dmq_cli.papers.views import TablePart, View, view
from dmq_cli.papers.writing import as_csv, latex, markdown, tex
from dmq_cli.results.pairs import Pairs
from dmq_cli.results.sweeps import Records
from dmq_cli.stages import costing
from dmq_cli.store import read_json, write_json
from tests.papers.planted import plant, row_of

MEASURED = {"Baseline [24]": 0.9, "+IBC+ Timestep-Aware": 0.85, "+NER + IBC+ Timestep-Aware (Ours)": 0.5}


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """TAC's Table 3 with three of its five rows measured."""
    table = paper_table("tac_3")
    for method, fd in MEASURED.items():
        plant(tmp_path / "tables", table, row_of(table, method, "3/8"), fd)
    return tmp_path


def test_paper_and_measured_stand_side_by_side(outputs: Path) -> None:
    done = CliRunner().invoke(main, ["tac_3", "--scale", "digits", "--overview", "--outputs", str(outputs)])
    assert done.exit_code == 0, done.output
    folder = outputs / "tables" / "tac_3-digits"
    text = (folder / "table.md").read_text(encoding="utf-8")
    assert text in done.output and f"Report: {folder}/ (table.md, table.csv, table.tex, report.html)" in done.output
    assert (folder / "report.html").is_file()
    assert text.startswith("# TAC-Diffusion, Table 3: ") and "(digits scale: embedded models, not the paper's)" in text
    assert "| method | bits | IS ↑, paper | IS-digits ↑, here | FID ↓, paper | FD-digits ↓, here | state |" in text
    assert "| Baseline [24] | 3/8 | 8.53 | 7.00 | 17.31 | 0.90 [0.80, 1.00] | measured |" in text
    assert "| +NER + IBC | 3/8 | 8.67 (+0.14) |  | 13.42 (-3.89) |  | not run |" in text
    assert "Rows: 3 measured, 2 not run." in text and "Measured under the protocol digits `h`." in text
    assert (
        "holds as learned once in 2, not measured in 1 of 3 comparisons. Holds as learned once: Baseline [24] at w3a8 (0.5 < 0.9)"
        in text
    )
    assert "claim: IBC alone is better than Q-Diffusion: not told apart" in text
    assert read_json(folder / "table.json")["states"] == {"measured": 3, "not run": 2}
    rows = list(csv.DictReader(io.StringIO((folder / "table.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 5 * 4 and {row["protocol"] for row in rows} == {"digits h"}
    index = (outputs / "tables" / "README.md").read_text(encoding="utf-8")
    assert "| [tac_3](tac_3-digits/table.md) | TAC-Diffusion, Table 3: " in index and "## Paper scale" not in index
    assert "| 3 | 2 |  |  |  | all parts at every step are better" in index


def test_rows_of_several_step_counts_stand_beside_full_precision_of_as_many(tmp_path: Path) -> None:
    table = paper_table("tdq_fig8")
    for method, fd, full in (("LSQ, 100 steps", 0.7, 0.25), ("LSQ, 10 steps", 0.9, 0.5)):
        plant(tmp_path / "tables", table, row_of(table, method, "W8A4", "DDIM"), fd, fp={"fd": full})
    text = papers.write_table("tdq_fig8", "digits", tmp_path)[1]
    assert "measured: ddim_digits, 100, 10 steps" in text and "| FD-digits of full precision ↓, here |" in text
    assert "| LSQ, 10 steps | W8A4 | 0.90 [0.80, 1.00] | 0.50 | measured |" in text
    assert "| LSQ, 100 steps | W8A4 | 0.70 [0.60, 0.80] | 0.25 | measured |" in text


def test_differences_of_earlier_cells_are_not_kept(outputs: Path) -> None:
    file = outputs / "tables" / "tac_3-digits" / "differences.json"
    write_json(file, {"gone gone": {"fd": [-0.1, 0.01]}})
    assert "image by image" in papers.write_table("tac_3", "digits", outputs)[1] and not file.exists()


def test_a_row_that_failed_says_why(outputs: Path) -> None:
    table = paper_table("tac_3")
    records, words = (
        Records(outputs, "tac_3"),
        [*job(table, row_of(table, "+NER + IBC", "3/8"), "digits"), "table=tac_3"],
    )
    records.write("a", {"overrides": [*words, "correct.lambda1=0.1"], "status": "done", "error": None})
    assert "not run: failed" not in papers.write_table("tac_3", "digits", outputs)[1]
    records.write("b", {"overrides": words, "status": "failed", "error": "The disk is full; make room."})
    text = papers.write_table("tac_3", "digits", outputs)[1]
    assert "\n* not run: failed (The disk is full; make room); retry=failed tries again\n" in text
    assert "| +NER + IBC | 3/8 | 8.67 (+0.14) |  | 13.42 (-3.89) |  | not run |" in text


def test_two_protocols_in_one_column_are_refused(outputs: Path) -> None:
    table = paper_table("tac_3")
    other = row_of(table, "+NER + IBC", "3/8")
    protocol = {"name": "digits", "hash": "another", "columns": {"fd": "FD-digits", "is": "IS-digits"}}
    plant(outputs / "tables", table, other, 0.6, protocol=protocol)
    with pytest.raises(ConfigError, match=r"2 protocols \(digits `another`, digits `h`\), which cannot share a column"):
        papers.write_table("tac_3", "digits", outputs)


def test_rows_that_gave_the_same_numbers_are_named(outputs: Path) -> None:
    table = paper_table("tac_3")
    other = row_of(table, "+NER + IBC", "3/8")
    assert "gave the same numbers" not in papers.write_table("tac_3", "digits", outputs)[1]
    (twin, fd), *_ = MEASURED.items()
    plant(outputs / "tables", table, other, fd)
    text = papers.write_table("tac_3", "digits", outputs)[1]
    assert text.count("gave the same numbers: what sets them apart does not act here.") == 1
    assert f"* {twin} 3/8 and {other.method} 3/8 gave" in text or f"* {other.method} 3/8 and {twin} 3/8 gave" in text
    assert views.LEARNED in text


def test_parts_of_two_models_are_tables_of_their_own(tmp_path: Path) -> None:
    whole = paper_table("tdq_2")
    table = replace(whole, rows=[row for row in whole.rows if row.method == "FP" or row.bits == "W8A8"])
    for part in ("DDIM", "LDM"):
        plant(tmp_path / "tables", table, row_of(table, "Ours", "W8A8", part), 0.6)
    text = markdown(view(table, "digits", tmp_path / "tables", {}, Pairs(Path)))
    assert text.count("| method | bits |") == 2 and text.count("| FP | FP |") == 2
    assert "Measured under the protocol digits_latent `h`." in text and "measured: ldm_digits, 20 steps" in text
    assert "IS ↑" not in text.partition("LDM on LSUN-Churches")[2].partition("Measured")[0], "not printed there"


def test_what_a_paper_shows_without_numbers_is_measured_all_the_same(tmp_path: Path) -> None:
    table = paper_table("tac_b")
    plant(tmp_path / "tables", table, row_of(table, "IBC", "3/8"), 0.6)
    text = papers.write_table("tac_b", "digits", tmp_path)[1]
    assert "| method | bits | FD-digits ↓, here | PSNR ↑, here | state |" in text
    assert "| IBC | 3/8 | 0.60 [0.50, 0.70] | 30.00 | measured |" in text


def test_rows_that_cannot_be_run_say_why_without_an_error(tmp_path: Path) -> None:
    whole = paper_table("tac_3")
    table = replace(whole, rows=[replace(row, missing="needs another planet") for row in whole.rows])
    text = markdown(view(table, "digits", tmp_path / "tables", {}, Pairs(Path)))
    assert "not available" in text and "* not available: needs another planet" in text


def test_a_figure_without_its_trace_is_not_measured(tmp_path: Path) -> None:
    table = paper_table("tfmq_fig1")
    plant(tmp_path / "tables", table, table.rows[0], 0.6)
    text = papers.write_table("tfmq_fig1", "digits", tmp_path)[1]
    assert "vary notably between time steps: not measured" in text
    write_json(tmp_path / "tables" / "tfmq_fig1-digits" / "traces.json", {"t": {"range_ratio": {"time_embed": 3.0}}})
    assert "steps: holds. Widest over narrowest" in papers.write_table("tfmq_fig1", "digits", tmp_path)[1]


def test_costs_are_counted_once_and_again_where_their_words_mean_something_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def count(config: dict[str, Any]) -> dict[str, float]:
        commands.append(config["method"]["name"])
        numbers = {"size_bytes": 138.5e6, "size_flat_bytes": 137.03e6, "size_bytes_fp": 1096.2e6}
        return {**numbers, "bops": 6.81e12, "bops_flat": 6.48e12, "bops_fp": 207.3e12, "bops_fp_single": 103.6e12}

    monkeypatch.setattr(costing, "cost_of", count)
    table = paper_table("tac_2")
    costs = counting.costs(table, "paper", tmp_path)
    words = "dmq cost model=ldm4_bedroom method=tac bits=w4a8"
    assert len(commands) == len(costs) == 23 and words in costs
    assert counting.costs(table, "paper", tmp_path) == costs and len(commands) == 23
    row, full = (row_of(table, *which, "LDM-4") for which in (("Ours", "4/8"), ("Full-precision", "32/32")))
    assert cost(table, row, "cost.size", "paper", costs) == "138.50 (137.03)"
    assert cost(table, row, "cost.bops", "paper", costs) == "6.81 (6.48)"
    assert cost(table, full, "cost.bops", "paper", costs) == "207.30 (103.60)"
    assert counting.costs(paper_table("tac_3"), "paper", tmp_path / "none") == {}

    before = {
        **costs,
        words: {**costs[words], "of": "of a method with other defaults", "size_bytes": 1.0},
        "dmq cost": {},
    }
    write_json(tmp_path / "costs.json", before)
    assert counting.costs(table, "paper", tmp_path) == costs and commands[23:] == ["tac"]
    assert read_json(tmp_path / "costs.json") == costs, "and rows that are no more are gone"


NASTY = r"50% of a_b & c #1 {x} $y ~z ^q \w <1> ↓"


def nasty() -> View:
    part = TablePart(NASTY, ["method", "bits", "FID ↓", "state"], [["a|b", "3/8", "1.00 ± 0.10", "measured"]])
    return View("x", NASTY, "digits", "source", [part], Counter(measured=1), [Verdict("100%", "holds")])


def test_latex_escapes_what_it_would_take_for_commands() -> None:
    assert tex("50% a_b & #1 {x}") == r"50\% a\_b \& \#1 \{x\}"
    assert tex("$ ~ ^ \\ < > ↓ ±") == (
        r"\$ \textasciitilde{} \textasciicircum{} \textbackslash{} $<$ $>$ $\downarrow$ $\pm$"
    )
    text = latex(nasty())
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert r"a|b & 3/8 & 1.00 $\pm$ 0.10 & measured \\" in text and "% claim: 100%: holds" in text.splitlines()
    body = [line for line in text.splitlines() if not line.startswith("%")]
    assert all(len(re.findall(r"(?<!\\)\$", line)) % 2 == 0 for line in body)
    assert all(ord(character) < 128 for line in body for character in line)
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)
    assert columns is not None and len(columns[1]) == 4


def test_markdown_and_csv_keep_a_nasty_cell_in_its_column() -> None:
    assert r"| a\|b | 3/8 | 1.00 ± 0.10 | measured |" in markdown(nasty())
    (row,) = csv.DictReader(io.StringIO(as_csv(nasty())))
    assert (row["part"], row["method"], row["value"]) == (NASTY, "a|b", "1.00 ± 0.10")
    assert json.loads(json.dumps(row))["column"] == "FID ↓"
