"""Paper and measured side by side: every part of a table as rows of strings, whatever it is written as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.papers import claims, counting, traces
from dmq_cli.papers.cells import cell_of, configured, failure, full_precision
from dmq_cli.papers.numbers import Entry, measured
from dmq_cli.papers.runnable import blocked, folder_name, job
from dmq_cli.papers.transcript import PaperTable, Row
from dmq_cli.results.pairs import Pairs
from dmq_cli.results.record import Evaluation, Number, flat
from dmq_cli.results.sweeps import Records
from dmq_cli.store import digest

MEASURED, NOT_RUN = "measured", "not run"
LEARNED_ONCE = (
    "What is outside the noise is so for other images of the same networks: each was learned once, and another recon.seed moves"
    " the numbers, too (make table-recon_seed)."
)
_ABSENT = {"paired.lpips": "needs weights: protocol.lpips_path"}


@dataclass
class TablePart:
    """One part as it is shown. heads and rows are strings of equal count; protocol: name and hash, if anything was measured."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    protocol: str = ""


@dataclass
class View:
    """A whole table. states: how many rows are measured, needs weights, needs GPU, not available or not run; reasons: why, in full."""

    name: str
    title: str
    scale: str
    source: str
    parts: list[TablePart] = field(default_factory=list)
    states: Counter[str] = field(default_factory=Counter)
    claims: list[claims.Verdict] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Known:
    """What is known about a row. state: one of the five; why: the rest of the sentence; cell: what backs it."""

    state: str
    why: str = ""
    cell: Evaluation | None = None


@dataclass(frozen=True)
class _Asked:
    """What is the same for all parts of a view."""

    table: PaperTable
    scale: str
    known: Mapping[int, Known]
    counted: counting.Costs


def view(table: PaperTable, scale: str, tables: Path, traced: Mapping[str, dict[str, Any]], pairs: Pairs) -> View:
    """Everything about a table. tables: the folder outputs/tables; traced: statistics of traces, by key of the artifact; pairs:
    differences of cells, image by image.

    Raises ConfigError if cells of one part were measured under several protocols, and as `cell_of`.
    """
    known = {number: look_up(table, row, scale, tables) for number, row in enumerate(table.rows)}
    counted = counting.costs(table, scale, tables / folder_name(table.name, scale))
    found = View(table.name, table.title, scale, table.source)
    for name in dict.fromkeys(row.part for row in table.rows):
        found.parts.append(_part(_Asked(table, scale, known, counted), name))
    found.states = Counter(one.state for one in known.values())
    found.reasons = list(dict.fromkeys(f"{one.state}: {one.why}" for one in known.values() if one.why))
    found.claims = [_verdict(table, claim, known, traced, pairs) for claim in table.claims]
    own = [f"{row.method} {row.bits}".strip() + f": {row.note}" for row in table.rows if row.note]
    judged = any("better" in claim for claim in table.claims) and found.states[MEASURED] > 1
    counts = counting.wanted(table) and counted
    own += _alike(table, known)
    found.notes = [*own, *table.notes, *([counting.NOTE] if counts else []), *([LEARNED_ONCE] if judged else [])]
    return found


def look_up(table: PaperTable, row: Row, scale: str, tables: Path) -> Known:
    """The state of one row: measured if a finished cell backs it, else why it is not."""
    folder = tables / folder_name(table.name, scale)
    if row.missing:
        cell = None
    elif row.full:
        others = [one for one in table.of(row.part) if not one.full]
        every = [folder, *sorted(other for other in tables.glob("*") if other.is_dir() and other != folder)]
        cell = full_precision(every, job(table, others[0], scale)) if others else None
    else:
        cell = cell_of(folder, job(table, row, scale))
    if cell is not None:
        return Known(MEASURED, cell=cell)
    if (told := blocked(table, row, scale)) is None:
        return Known(NOT_RUN, "" if row.full else failure(Records(tables.parent, table.name), job(table, row, scale)))
    state, _, why = told.partition(": ")
    return Known(state, why)


def _alike(table: PaperTable, known: Mapping[int, Known]) -> list[str]:
    """A line for rows of one part whose numbers are all the same, though not their settings."""
    found: dict[str, dict[str, str]] = {}
    for number, row in enumerate(table.rows):
        cell = known[number].cell
        if cell is not None and not row.full:
            same = found.setdefault(digest([row.part, flat(cell.quantized), flat(cell.paired)]), {})
            same.setdefault(digest(cell.config), f"{row.method} {row.bits}".strip())
    return [
        f"{' and '.join(one.values())} gave the same numbers: what sets them apart does not act here."
        for one in found.values()
        if len(one) > 1
    ]


def _part(asked: _Asked, name: str) -> TablePart:
    table = asked.table
    rows = [(row, asked.known[number]) for number, row in enumerate(table.rows) if row.part == name]
    backed = [one.cell for _, one in rows if one.cell is not None]
    protocol = _one_protocol(table.name, name, backed)
    columns = {heading: key for heading, key in table.columns.items() if _shown(heading, key, table.of(name))}
    printed = {heading for heading in columns if any(row.printed[heading] for row, _ in rows)}
    titles = _titles(columns, printed, _columns_of(asked, name))
    shown = [_cells(asked, row, one, columns, printed) for row, one in rows]
    title = str(table.parts[name]["title"])
    return TablePart(title + _here(backed), ["method", "bits", *titles, "state"], shown, protocol)


def _cells(
    asked: _Asked, row: Row, known: Known, columns: Mapping[str, str | None], printed: Container[str]
) -> list[str]:
    """The strings of one row: for each column the printed one, if the part prints any, and the measured one, if it is measured."""
    found = [row.method, row.bits]
    for heading, key in columns.items():
        if heading in printed:
            found.append(row.printed[heading])
        if key is not None:
            found.append(_measured(asked, row, known.cell, key))
    return [*found, known.state]


def _measured(asked: _Asked, row: Row, cell: Evaluation | None, key: str) -> str:
    if key.startswith("cost."):
        return counting.cost(asked.table, row, key, asked.scale, asked.counted)
    if cell is None:
        return ""
    number = measured(cell, key, row.full)
    if number is None:
        return "" if row.full and key.startswith("paired.") else _ABSENT.get(key, "not in this protocol")
    return number.shown


def _titles(columns: Mapping[str, str | None], printed: set[str], names: Mapping[str, str]) -> list[str]:
    """Headings; where both are shown, the measured one has its own name: FD-digits is no FID."""
    found = []
    for heading, key in columns.items():
        if heading in printed:
            found.append(heading if key is None else f"{heading}, paper")
        if key is not None:
            arrow = heading[-2:] if heading[-1] in "↓↑" else ""
            own = names.get(key.partition(".")[2])
            found.append((own + arrow if own and key.startswith("quantized.") else heading) + ", here")
    return found


def _columns_of(asked: _Asked, name: str) -> Mapping[str, str]:
    """How the protocol of a part calls its columns."""
    row = next((row for row in asked.table.of(name) if not row.full), None)
    if row is None:
        return {}
    names: Mapping[str, str] = configured(job(asked.table, row, asked.scale))["protocol"]["columns"]
    return names


def _shown(heading: str, key: str | None, rows: Sequence[Row]) -> bool:
    """A column of a part is shown if the paper prints it there, or, where it prints nothing at all, if it is measured here."""
    printed = {one for row in rows for one, value in row.printed.items() if value}
    return heading in printed or (key is not None and not printed)


def _one_protocol(table: str, part: str, backed: Sequence[Evaluation]) -> str:
    found = {f"{cell.protocol['name']} `{cell.protocol['hash']}`": cell for cell in backed}
    if len(found) > 1:
        raise ConfigError(
            f"The cells of {part} in the table {table} were measured under {len(found)} protocols ({', '.join(sorted(found))}), which"
            " cannot share a column; remove those that do not belong."
        )
    return next(iter(found), "")


def _here(backed: Sequence[Evaluation]) -> str:
    if not backed:
        return ""
    sampler = backed[0].config["sampler"]
    eta = f", eta = {sampler['eta']}" if sampler["eta"] else ""
    return f"; measured: {backed[0].model}, {sampler['num_inference_steps']} steps{eta}"


def _verdict(
    table: PaperTable,
    claim: Mapping[str, Any],
    known: Mapping[int, Known],
    traced: Mapping[str, dict[str, Any]],
    pairs: Pairs,
) -> claims.Verdict:
    if "unchecked" in claim:
        return claims.Verdict(str(claim["says"]), f"not available: {claim['unchecked']}")
    if "trace" in claim:
        backing = {row.method: known[number].cell for number, row in enumerate(table.rows)}
        keys = {method: cell.artifacts.get("trace", "") for method, cell in backing.items() if cell is not None}
        return traces.verdict(claim, {method: traced[key] for method, key in keys.items() if key in traced})
    backing_of = {id(row): known[number].cell for number, row in enumerate(table.rows)}

    def look(row: Row, heading: str) -> Entry | None:
        cell, key = backing_of[id(row)], table.columns[heading]
        return None if cell is None or key is None else measured(cell, key, row.full)

    def apart(one: Row, other: Row, heading: str) -> Number | None:
        ours, theirs = backing_of[id(one)], backing_of[id(other)]
        side, _, key = str(table.columns[heading]).partition(".")
        return None if ours is None or theirs is None or one.full or other.full else pairs(ours, theirs, side, key)

    return claims.verdict(table, claim, look, apart)
