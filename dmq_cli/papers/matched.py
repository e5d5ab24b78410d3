"""Matched widths: where a method without learning falls as far on an embedded model as it does in the paper.

At the printed widths an embedded model often loses next to nothing, and no method can be told from another. conf/table/matched.csv says
for a paper's model and width how many times full precision's distance a row without learning has there (Min-Max, else PTQ4DM,
whose ranges are searched), and the width at which the same method comes nearest to that on the embedded model that stands for it. Of a
paper's W8A6 only the activations get another width, of W4A8 only the weights. It is written by
`python -m dmq_cli.cli.commands.tables --matched` from the cells of `make table-widths`.
"""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass, fields, replace
from functools import cache
from pathlib import Path

from dmq_cli.papers.cells import cells
from dmq_cli.papers.transcript import PaperTable, Row, choice_of, names, paper_table
from dmq_cli.paths import conf_folder

TABLE = "widths"
"""The table of dmq's own that measures the methods without learning at every width."""
_METHODS = ("minmax", "ptq4dm")  # the first one that a paper prints at a width counts


@dataclass(frozen=True)
class Match:
    """A line of matched.csv. times: the row's distance over that of full precision, as printed and as measured here."""

    model: str
    bits: str
    anchor: str
    times: str
    digits_model: str
    digits_bits: str
    digits_times: str


Curves = Mapping[tuple[str, str], Mapping[str, float]]
"""By model and method, for every width: the distance over that of full precision."""


def curves(tables: Path) -> Curves:
    """Read the curves from the finished cells of `make table-widths`. tables: the folder outputs/tables."""
    measured: dict[tuple[str, str], dict[str, float]] = {}
    for cell in cells(tables / TABLE):
        quantized, full = cell.number("quantized", "fd"), cell.number("fp", "fd")
        if quantized is not None and full is not None:
            measured.setdefault((cell.model, cell.method), {})[cell.bits] = quantized.value / full.value
    return measured


def match(measured: Curves) -> list[Match]:
    """Match every printed width of a method without learning that was measured here, sorted by model and width."""
    matches: dict[tuple[str, str, str], Match] = {}
    for method in _METHODS:
        for anchor in _anchors(method):
            if (curve := measured.get((anchor.digits_model, method))) and (near := _nearest(anchor, curve)):
                matches.setdefault((anchor.model, anchor.digits_model, anchor.bits), near)
    return [matches[key] for key in sorted(matches)]


def as_csv(matches: Iterable[Match]) -> str:
    """Write the lines of matched.csv."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([field.name for field in fields(Match)])
    writer.writerows(map(astuple, matches))
    return out.getvalue()


def matched_row(table: PaperTable, row: Row) -> Row | None:
    """The row at its matched width at digits scale; None where none is known, or where it is the printed one."""
    words = table.parts[row.part]
    models = (str(choice_of(words["paper"], "model")), str(choice_of(words["digits"], "model")))
    bits = next(
        (
            line.digits_bits
            for line in _lines()
            if (line.model, line.digits_model, line.bits) == (*models, row.setting())
        ),
        None,
    )
    if row.full or row.missing or table.verb == "benchmark" or bits in (None, row.setting()):
        return None
    digits = tuple(f"bits={bits}" if word.startswith("bits=") else word for word in row.overrides["digits"])
    return replace(row, overrides={**row.overrides, "digits": digits})


def file() -> Path:
    """The place of matched.csv."""
    return conf_folder() / "table" / "matched.csv"


@cache
def _lines() -> list[Match]:
    if not file().is_file():
        return []
    with file().open(encoding="utf-8", newline="") as lines:
        return [Match(**line) for line in csv.DictReader(lines, strict=True)]


def _anchors(method: str) -> Iterator[Match]:
    """Every printed row of this method with its distance over that of full precision; nothing measured yet."""
    for table in map(paper_table, names()):
        headings = [heading for heading, key in table.columns.items() if key == "quantized.fd"]
        for heading, (part, words) in itertools.product(headings, table.parts.items()):
            rows = [row for row in table.of(part) if row.printed[heading]]
            full = next((float(row.printed[heading]) for row in rows if row.full), None)
            for row in rows:
                if full is not None and f"method={method}" in row.overrides["digits"]:
                    times = f"{float(row.printed[heading]) / full:.3g}"
                    place = f"{table.name}: {row.method} {row.bits}"
                    yield Match(
                        str(choice_of(words["paper"], "model")),
                        row.setting(),
                        place,
                        times,
                        str(choice_of(words["digits"], "model")),
                        "",
                        "",
                    )


def _nearest(anchor: Match, curve: Mapping[str, float]) -> Match | None:
    """Match an anchor to the width of its axis whose quotient is nearest, the wider one of two."""
    weight, act = _widths(anchor.bits)
    axis = [bits for bits in curve if (_widths(bits)[0] == weight if weight == 8 else _widths(bits)[1] == act)]
    if not axis:
        return None
    best = min(sorted(axis, reverse=True), key=lambda bits: abs(math.log(curve[bits] / float(anchor.times))))
    return replace(anchor, digits_bits=best, digits_times=f"{curve[best]:.3g}")


def _widths(bits: str) -> tuple[int, int]:
    weight, act = re.findall(r"\d+", bits)[:2]
    return int(weight), int(act)
