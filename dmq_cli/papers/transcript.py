"""A paper's table as data: conf/table/NAME.yaml says what it is, conf/table/paper/NAME.csv holds its cells as printed.

The CSV has the columns part, method, bits, one for each printed column, overrides, missing and note; where the settings of the
two scales differ, also paper_overrides. overrides: the words of `dmq evaluate` for the row; empty for full precision, which every
run measures. missing: why the row cannot be run yet, as in "needs deployment".
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from dmq_cli import choices
from dmq_cli.errors import ArtifactCorruptError, ConfigError, nearest
from dmq_cli.paths import conf_folder

Scale = Literal["paper", "digits"]
_FIXED = ("part", "method", "bits", "overrides", "missing", "note")


@dataclass(frozen=True)
class Row:
    """One row as printed. printed: by heading, "" where nothing is printed; overrides: by scale, () for full precision."""

    part: str
    method: str
    bits: str
    printed: Mapping[str, str]
    overrides: Mapping[str, tuple[str, ...]]
    missing: str
    note: str

    @property
    def full(self) -> bool:
        """Whether it is full precision, which every run of its part measures."""
        return not self.overrides["paper"]

    def setting(self, scale: Scale = "paper") -> str:
        """The row's bits: those it is run at, or as printed where it is not run."""
        return choice_of(self.overrides[scale], "bits") or self.bits


@dataclass(frozen=True)
class PaperTable:
    """A table of a paper.

    columns: heading as printed -> a path in metrics.json, "cost.size", "cost.bops", "latency.seconds", "latency.ratio", or None for a
    column that is not measured.
    parts: name -> {title, paper, digits}, the last two the overrides that all its rows begin with.
    claims: see dmq_cli.papers.claims. verb: the command that measures a row, evaluate or benchmark.
    """

    name: str
    title: str
    source: str
    columns: Mapping[str, str | None]
    parts: Mapping[str, Mapping[str, Any]]
    claims: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    rows: Sequence[Row] = field(repr=False)
    verb: str = "evaluate"

    def of(self, part: str) -> list[Row]:
        """The rows of one part, as printed."""
        return [row for row in self.rows if row.part == part]


def names() -> list[str]:
    """The papers' tables, sorted."""
    return sorted(file.stem for file in _cells_folder().glob("*.csv"))


def paper_table(name: str) -> PaperTable:
    """Load a paper's table by its name. Raises ConfigError for one that does not exist or is not a paper's."""
    if name not in names():
        raise ConfigError(f"There is no paper's table {name}.{nearest(name, names())}")
    return from_section(_section(name))


def from_section(section: Mapping[str, Any]) -> PaperTable:
    """Load a paper's table from the section `table` of a configuration. Raises ConfigError if its CSV does not fit its YAML."""
    columns, parts = section["columns"], section["parts"]
    rows = _rows(str(section["paper"]), columns)
    for row in rows:
        if row.part not in parts:
            raise ConfigError(
                f"The table {section['paper']} has a row of the part {row.part}, which its YAML file lacks.{nearest(row.part, parts)}"
            )
    name = str(section["paper"]).partition(".")[0]
    captions = (section["title"], section["source"].strip())
    return PaperTable(
        name, *captions, columns, parts, section["claims"], section["notes"], rows, section.get("verb", "evaluate")
    )


def choice_of(words: Iterable[str], group: str) -> str | None:
    """The choice of a group among overrides; None where they have none."""
    return next((word.partition("=")[2] for word in words if word.startswith(f"{group}=")), None)


def check_scale(scale: str) -> Scale:
    """Return the scale. Raises ConfigError for another word."""
    if scale not in get_args(Scale):
        raise ConfigError(f"scale={scale} does not exist.{nearest(scale, get_args(Scale))}")
    return "digits" if scale == "digits" else "paper"


def _cells_folder() -> Path:
    return conf_folder() / "table" / "paper"


def _section(name: str) -> dict[str, Any]:
    section: dict[str, Any] = choices.table(name)
    return section


def _rows(file: str, columns: Mapping[str, str | None]) -> list[Row]:
    path = _cells_folder() / file
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            reader = csv.DictReader(lines, strict=True)
            records = list(reader)
    except (OSError, csv.Error) as error:
        raise ArtifactCorruptError(f"The cells of a paper's table were to be read from {path} ({error}).") from error
    heads = set(reader.fieldnames or ())
    if not {*_FIXED} <= heads or not heads - {*_FIXED, "paper_overrides"} <= {*columns}:
        raise ConfigError(
            f"{path} must have the columns {', '.join(_FIXED)} and those that the table's YAML file names."
        )
    return [_row(line, columns) for line in records]


def _row(line: Mapping[str, str], columns: Mapping[str, str | None]) -> Row:
    digits = tuple(line["overrides"].split())
    overrides = {"digits": digits, "paper": tuple(line.get("paper_overrides", "").split()) or digits}
    printed = {heading: line.get(heading, "") for heading in columns}
    return Row(line["part"], line["method"], line["bits"], printed, overrides, line["missing"], line["note"])
