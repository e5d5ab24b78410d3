"""What differs between runs: in configuration, in numbers (with what the noise allows to say), in images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.report import heading
from dmq_cli.report.html import render
from dmq_cli.report.result_table import Value, by_protocol, caption, columns_of
from dmq_cli.report.sections import images
from dmq_cli.results.noise import alike
from dmq_cli.results.pairs import Pairs
from dmq_cli.results.record import Evaluation, Number
from dmq_cli.results.runs import Result, flatten, labels
from dmq_cli.results.verdict import difference, verdict, with_unit
from dmq_cli.store.files import write_text

ABSENT = "—"
_HOW = ("environment", "runtime", "store", "table")  # where and for what it ran: in no key, numbers do not rest on it
_LONGEST = 36  # of a value in the terminal


@dataclass(frozen=True)
class Difference:
    """A key and its value in every run; ABSENT where a run has no such key."""

    key: str
    values: list[Any]


@dataclass(frozen=True)
class Compared:
    """One number of runs that share a protocol, by label. deltas: to the first run that has it, with the verdict."""

    key: str
    title: str
    values: dict[str, Number]
    deltas: dict[str, tuple[float, str]]


@dataclass(frozen=True)
class ComparedGroup:
    """The numbers of runs that may be compared with each other. about: what they share."""

    about: str
    numbers: list[Compared]


@dataclass(frozen=True)
class Comparison:
    """configuration: what the numbers depend on; circumstances: machine, versions and commit."""

    runs: dict[str, Result]
    configuration: list[Difference]
    circumstances: list[Difference]
    numbers: list[ComparedGroup]


def compare(results: Sequence[Result]) -> Comparison:
    """What differs between two or more runs. Raises ConfigError for a single one."""
    if len(results) < 2:
        raise ConfigError("A comparison was asked for with one run; give two or more runs, or use dmq report.")
    runs = dict(zip(labels(results), results, strict=True))
    flat = [{**run.settings, **flatten(run.manifest.get("environment", {}), "environment")} for run in results]
    keys = sorted({key for settings in flat for key in settings if not key.startswith("table.") or key == "table.name"})
    entries = [Difference(key, [settings.get(key, ABSENT) for settings in flat]) for key in keys]
    differing = [entry for entry in entries if any(value != entry.values[0] for value in entry.values)]
    return Comparison(
        runs,
        [entry for entry in differing if entry.key.partition(".")[0] not in _HOW],
        [entry for entry in differing if entry.key.partition(".")[0] in _HOW],
        [_numbers({label: run for label, run in runs.items() if label in group}) for group in by_protocol(runs)],
    )


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Plain values."""
    return {
        "runs": {label: str(run.folder) for label, run in comparison.runs.items()},
        "configuration": {entry.key: entry.values for entry in comparison.configuration},
        "circumstances": {entry.key: entry.values for entry in comparison.circumstances},
        "numbers": [
            {
                "about": group.about,
                **{
                    n.key: {"values": {label: number.value for label, number in n.values.items()}, "deltas": n.deltas}
                    for n in group.numbers
                },
            }
            for group in comparison.numbers
        ],
    }


def as_text(comparison: Comparison) -> str:
    """For the terminal."""
    parts = ["runs:", *(f"  {label}: {run.folder}" for label, run in comparison.runs.items())]
    for title, differences in (
        ("configuration", comparison.configuration),
        ("machine and versions", comparison.circumstances),
    ):
        parts.append(f"\n{title}: " + ("nothing differs" if not differences else f"{len(differences)} differ"))
        parts += _aligned(
            [["", "", *comparison.runs], *(["", entry.key, *map(_brief, entry.values)] for entry in differences)]
            if differences
            else []
        )
    for group in comparison.numbers:
        parts.append(f"\nnumbers: {group.about}")
        if len(comparison.numbers) > 1:
            parts.append("  (other runs were measured in another way and are not compared with these)")
        columns = list(dict.fromkeys(label for number in group.numbers for label in number.values))
        parts += _aligned(
            [["", "", *columns], *(["", n.title, *(cell_text(n, label) for label in columns)] for n in group.numbers)]
        )
    return "\n".join(parts)


def write_comparison(comparison: Comparison, file: Path) -> None:
    """A self-contained HTML page, with the images side by side."""
    write_text(
        file,
        render(
            "compare.html.j2",
            comparison=comparison,
            days=heading.days(comparison.runs),
            in_full=heading.in_full(comparison.runs),
            images=images(comparison.runs),
            value=cell_value,
        ),
    )


def cell_value(number: Compared, label: str) -> Value:
    """A number with its difference to the first run; an empty one where the run does not have it."""
    if label not in number.values:
        return Value()
    text, value = with_unit(number.values[label]), number.values[label].value
    if label not in number.deltas:
        return Value(text)
    delta, judged = number.deltas[label]
    return Value(text, delta=difference(value, value - delta), judged=judged)


def cell_text(number: Compared, label: str) -> str:
    """`0.60 (+0.07 inside the noise)`; nothing where the run does not have it."""
    cell = cell_value(number, label)
    judged = "" if cell.judged == "noise unknown" else f" {cell.judged}"
    return f"{cell.text} ({cell.delta}{judged})" if cell.delta else cell.text


def _numbers(group: Mapping[str, Result]) -> ComparedGroup:
    measured = {label: run.evaluation for label, run in group.items()}
    columns = columns_of([*measured.values()])
    folders = {folder.name: folder for run in group.values() for folder in run.artifacts.values() if folder is not None}
    pairs = Pairs(lambda key: folders.get(key, Path()))
    numbers = [_number(measured, c.key, c.title, c.side, pairs) for c in columns]
    return ComparedGroup(caption(next(iter(measured.values()))), numbers)


def _number(measured: Mapping[str, Evaluation], key: str, title: str, side: str, pairs: Pairs) -> Compared:
    values = {
        label: number for label, evaluation in measured.items() if (number := evaluation.number(side, key)) is not None
    }
    first, base = next(iter(values.items()))
    deltas = {}
    for label in [label for label in values if label != first]:
        apart = pairs(measured[label], measured[first], side, key)
        inside = alike(measured[label], measured[first], side, key, apart)
        deltas[label] = (values[label].value - base.value, verdict(inside))
    return Compared(key, title, values, deltas)


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{word:{width}}" for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
