"""The papers' cells are those of the seeds' texts, which are read here a second time and in another way."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from dmq_cli.papers.claims import FAILS, HOLDS, UNKNOWN, compare, pairs
from dmq_cli.papers.numbers import Entry
from dmq_cli.papers.transcript import PaperTable, Row, names, paper_table
from dmq_cli.paths import PACKAGE
from dmq_cli.results.record import Number

ISSUE = {
    "tac": ["1", "2", "3", "4", "5", "6", "fig5", "fig6", "b"],
    "tdq": ["1", "2", "3", "4", "fig2", "fig8", "fig9"],
    "tfmq": ["1", "2", "3", "4", "5", "fig1", "fig2"],
    "tcaq": ["a", "figa", "figb", "figc"],
}
SEEDS = {"tac": "002", "tdq": "003", "tfmq": "001", "tcaq": "000"}
_BESIDE = PACKAGE.parents[1] / "shared"
SHARED = _BESIDE if (_BESIDE / "seeds").is_dir() else None
with_texts = pytest.mark.skipif(SHARED is None, reason="the seeds' texts (shared/seeds) are not beside the checkout")
PLACES = {
    "tfmq_1": "Table I.",
    "tfmq_2": "Table II.",
    "tfmq_3": "Table III.",
    "tfmq_4": "Table IV.",
    "tfmq_5": "Table V.",
}


@cache
def text(paper: str) -> str:
    (file,) = (SHARED or Path()).glob(f"seeds/{SEEDS[paper]}_*.txt")
    return file.read_text(encoding="utf-8")


def lines(name: str) -> list[list[str]]:
    """The rows of a printed table, split at tabs, without the cells that are empty or name the model."""
    paper, _, number = name.partition("_")
    place = PLACES.get(name, f"\nTable {number}:")
    body = text(paper).partition(place)[2].partition("\n")[2]
    rows: list[list[str]] = []
    for line in body.splitlines():
        if "\t" in line:
            rows.append([c.strip() for c in line.split("\t") if c.strip() and not c.startswith(("DDIM (", "LDM-"))])
        elif rows and line.strip():
            break
    return rows


def plain(cell: str) -> str:
    """Without LaTeX's marks."""
    return re.sub(r"[${}]|\\times", "", cell).replace("\N{MULTIPLICATION SIGN}", "")


def of_rows(table: PaperTable, rows: list[Row]) -> list[list[str]]:
    return [[row.method, row.bits, *(row.printed[h] for h in table.columns if row.printed[h])] for row in rows]


def added(row: Row) -> bool:
    """Whether dmq added this row to a table that the paper prints."""
    return row.note.startswith("Not in the paper")


def reread(name: str) -> Iterator[list[str]]:
    """Method, bits and numbers of every row in the text, in the order of the CSV."""
    for cells in lines(name):
        if any(re.fullmatch(r"\d+/\d+", cell) for cell in cells):
            bits = next(i for i, cell in enumerate(cells) if re.fullmatch(r"\d+/\d+", cell))
            yield [cells[0], cells[bits], *cells[1:bits], *map(plain, cells[bits + 1 :])]


def test_every_table_of_the_issue_is_there() -> None:
    assert names() == sorted(f"{paper}_{number}" for paper, numbers in ISSUE.items() for number in numbers)
    for name in names():
        table = paper_table(name)
        assert table.name == name and table.rows and table.claims and "arXiv" in table.source
        assert {row.part for row in table.rows} == set(table.parts)


def test_rows_without_a_printed_number_say_that_they_are_not_in_the_paper() -> None:
    bare = [
        row for table in map(paper_table, names()) for row in table.rows
        if not (row.full or any(row.printed.values())) and any(v for other in table.rows for v in other.printed.values())
    ]  # fmt: skip
    assert len(bare) >= 2 and all(added(row) for row in bare), [row.method for row in bare if not added(row)]


@with_texts
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("tac_1", 20), ("tac_2", 25), ("tac_3", 4), ("tac_4", 6), ("tac_5", 12), ("tac_6", 5),
        ("tfmq_1", 5), ("tfmq_2", 13), ("tfmq_3", 3), ("tfmq_4", 4), ("tfmq_5", 4),
    ],
)  # fmt: skip
def test_tables_with_a_row_for_each_method_and_width(name: str, count: int) -> None:
    table = paper_table(name)
    ours = [list(map(plain, row)) for row in of_rows(table, [row for row in table.rows if not added(row)])]
    assert ours == list(reread(name)) and len(ours) == count


@with_texts
@pytest.mark.parametrize(("name", "widths", "count"), [("tdq_1", 5, 60), ("tdq_2", 3, 30)])
def test_tables_with_a_column_for_each_width(name: str, widths: int, count: int) -> None:
    table, printed = paper_table(name), lines(name)
    total, part = 0, "DDIM"
    for cells in (c for c in printed if not c[0].startswith("(")):
        if re.fullmatch(r"W\dA\d", cells[0]):
            head = cells[:widths]
            continue
        cells = [c for c in cells if c not in ("DDIM [2]", "LDM [4]")]
        if (cells[0] == "PACT [19]" and total) or (name == "tdq_2" and "W8A5" in head):
            part = "LDM"
        for width, cell in zip(head, cells[1 : widths + 1], strict=True):
            (row,) = [r for r in table.of(part) if (r.method, r.bits) == (cells[0], width)]
            assert " / ".join(v for v in row.printed.values() if v) == cell
            total += len(cell.split(" / "))
        if len(cells) > widths + 1:  # printed once for all rows
            (full,) = [r for r in table.of(part) if r.method == "FP"]
            assert " / ".join(v for v in full.printed.values() if v) == cells[-1]
            total += len(cells[-1].split(" / "))
    if name == "tdq_2":
        assert [r.printed["FID ↓"] for r in table.rows if r.method == "FP"] == ["5.59", "4.04"]
    assert total == count


@with_texts
def test_tables_of_other_shapes() -> None:
    heads, *values = [cells for cells in lines("tdq_3") if "FID ↓" not in cells]
    table, part, total = paper_table("tdq_3"), "", 0
    for cells in values:
        part = cells.pop(0).partition("[")[0] if cells[0][0] != "W" else part
        for method, value in zip(map(plain, heads), cells[1:], strict=True):
            (row,) = [r for r in table.of(part) if (r.method, r.bits) == (method, cells[0])]
            assert row.printed["FID ↓"] == value
            total += 1
    assert total == 24
    fourth = paper_table("tdq_4").rows
    printed = [[row.method, row.printed["FID ↓"]] for row in fourth if not added(row)]
    assert printed == lines("tdq_4")[1:] and len(printed) == 6
    clamps = [c for c in (line.split("\t") for line in text("tcaq").splitlines()) if c[0] == "W4A8"]
    assert [[row.bits, *row.printed.values()] for row in paper_table("tcaq_a").rows] == clamps and len(clamps) == 5


def test_what_a_paper_claims_holds_in_what_it_prints() -> None:
    def look(row: Row, heading: str) -> Entry | None:
        value = re.match(r"[\d.]+", row.printed[heading])
        return Entry(Number(float(value[0]), (float(value[0]),) * 2), value[0]) if value else None

    verdicts = {HOLDS: 0, FAILS: 0, UNKNOWN: 0}
    for table in map(paper_table, names()):
        for claim in (c for c in table.claims if "column" in c):
            compared = list(pairs(table, claim))
            assert compared, claim
            for better, other in compared:
                verdicts[compare(claim["column"], look(better, claim["column"]), look(other, claim["column"]))[0]] += 1
    assert verdicts[FAILS] == 0 and verdicts[HOLDS] >= 80 and verdicts[UNKNOWN] <= 30, verdicts
