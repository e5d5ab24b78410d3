"""Put a table's printed and measured numbers side by side, as rows of strings for any format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from dmq_cli.errors import ConfigError
from dmq_cli.papers import claims, counting, latencies, traces
from dmq_cli.papers.cells import cell_of, configured, failure, full_precision
from dmq_cli.papers.matched import matched_row
from dmq_cli.papers.numbers import Entry, measured
from dmq_cli.papers.runnable import blocked, folder_name, job
from dmq_cli.papers.transcript import PaperTable, Row
from dmq_cli.results.benchmark import Benchmark
from dmq_cli.results.learned import Learnings, learning_seed
from dmq_cli.results.pairs import Pairs
from dmq_cli.results.record import Evaluation, flat
from dmq_cli.results.sweeps import Records
from dmq_cli.store import digest

_T = TypeVar("_T")
MEASURED, NOT_RUN = "measured", "not run"
LEARNED = (
    "A claim holds, or does not, outside of two noises together: that of the images, and that of the seed of the learning, over which the mean"
    " difference has a 95 % interval where both rows were learned with three seeds or more (make table-recon_seed). As learned once: outside"
    " the noise of the images, for networks that were not learned again. A number after ± is half the 95 % interval of a difference image by"
    " image; comparisons without it are judged by the intervals of both rows' differences from full precision, which are wider."
)
_DISTANCES = {"quantized": "", "fp": " of full precision"}
_ABSENT = {"paired.lpips": "needs weights: protocol.lpips_path"}


@dataclass
class TablePart:
    """One part of a table. Every row has as many strings as heads; protocol: name and hash, if any cell was measured."""

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
class RowState:
    """The state of a row. state: one of the five; why: the reason; cell: its finished evaluation; latency: its benchmark."""

    state: str
    why: str = ""
    cell: Evaluation | None = None
    latency: Benchmark | None = None


@dataclass(frozen=True)
class _Known:
    """What is known besides the rows' own numbers. traced: statistics of traces, by key of the artifact; pairs: differences of cells, image
    by image; learnings: the same over seeds of the learning."""

    traced: Mapping[str, dict[str, Any]]
    pairs: Pairs
    learnings: Learnings


@dataclass(frozen=True)
class _ViewInputs:
    """The inputs that all parts of a view share. row_states, matched: by the row's number in the table; the latter at the width of
    `matched_row`, for rows that have one."""

    table: PaperTable
    scale: str
    row_states: Mapping[int, RowState]
    matched: Mapping[int, tuple[Row, RowState]]
    counted: counting.Costs


def view(table: PaperTable, scale: str, tables: Path, traced: Mapping[str, dict[str, Any]], pairs: Pairs) -> View:
    """Make the view of a table. tables: the folder outputs/tables; traced: statistics of traces, by key of the artifact; pairs:
    differences of cells, image by image.

    Raises ConfigError if cells of one part were measured under several protocols, and as `cell_of`.
    """
    row_states = {number: look_up(table, row, scale, tables) for number, row in enumerate(table.rows)}
    at_matched = {number: row for number, row in enumerate(map(partial(matched_row, table), table.rows)) if row}
    matched = {
        number: (row, look_up(table, row, scale, tables)) for number, row in at_matched.items() if scale == "digits"
    }
    counted = counting.costs(table, scale, tables / folder_name(table.name, scale))
    table_view = View(table.name, table.title, scale, table.source)
    for name in dict.fromkeys(row.part for row in table.rows):
        table_view.parts.append(_part(_ViewInputs(table, scale, row_states, matched, counted), name))
    table_view.states = Counter(row_state.state for row_state in row_states.values())
    table_view.reasons = list(
        dict.fromkeys(f"{row_state.state}: {row_state.why}" for row_state in row_states.values() if row_state.why)
    )
    known = _Known(traced, pairs, Learnings(tables))
    table_view.claims = [_verdict(table, claim, row_states, known) for claim in table.claims]
    table_view.claims += _matched_verdicts(table, {number: state for number, (_, state) in matched.items()}, known)
    notes = [f"{row.method} {row.bits}".strip() + f": {row.note}" for row in table.rows if row.note]
    judged = any("better" in claim for claim in table.claims) and table_view.states[MEASURED] > 1
    counts = counting.has_costs(table) and counted
    notes += _alike(table, row_states)
    timed = [latencies.NOTE] if any(state.latency for state in row_states.values()) else []
    table_view.notes = [
        *notes,
        *table.notes,
        *([counting.NOTE] if counts else []),
        *timed,
        *([LEARNED] if judged else []),
    ]
    return table_view


def look_up(table: PaperTable, row: Row, scale: str, tables: Path) -> RowState:
    """Find the state of one row: measured if it has a finished cell, else why not."""
    folder = tables / folder_name(table.name, scale)
    if row.missing:
        cell = None
    elif table.verb == "benchmark":
        return _latency(table, row, scale, folder)
    elif row.full:
        quantized_rows = [candidate for candidate in table.of(row.part) if not candidate.full]
        folders = [folder, *sorted(path for path in tables.glob("*") if path.is_dir() and path != folder)]
        cell = full_precision(folders, job(table, quantized_rows[0], scale)) if quantized_rows else None
    else:
        cell = cell_of(folder, job(table, row, scale))
    if cell is not None:
        return RowState(MEASURED, cell=cell)
    if (reason := blocked(table, row, scale)) is None:
        return RowState(
            NOT_RUN, "" if row.full else failure(Records(tables.parent, table.name), job(table, row, scale))
        )
    state, _, why = reason.partition(": ")
    return RowState(state, why)


def _latency(table: PaperTable, row: Row, scale: str, folder: Path) -> RowState:
    """Find the state of a row whose latency is measured."""
    measured_by = latencies.measuring(table, row)
    if measured_by is None:
        return RowState(NOT_RUN)
    words = job(table, measured_by, scale)
    if (benchmark := latencies.benchmark_of(folder, words)) is not None:
        return RowState(MEASURED, latency=benchmark)
    return RowState(NOT_RUN, "" if row.full else failure(Records(folder.parents[1], folder.name), words))


def _alike(table: PaperTable, row_states: Mapping[int, RowState]) -> list[str]:
    """Write a line for rows of one part that have equal numbers, but different settings."""
    groups: dict[str, dict[str, str]] = {}
    for number, row in enumerate(table.rows):
        cell = row_states[number].cell
        if cell is not None and not row.full:
            same = groups.setdefault(digest([row.part, flat(cell.quantized), flat(cell.paired)]), {})
            same.setdefault(digest(cell.config), f"{row.method} {row.bits}".strip())
    return [
        f"{' and '.join(group.values())} gave the same numbers: what sets them apart does not act here."
        for group in groups.values()
        if len(group) > 1
    ]


def _part(inputs: _ViewInputs, name: str) -> TablePart:
    table = inputs.table
    rows = [(row, inputs.row_states[number]) for number, row in enumerate(table.rows) if row.part == name]
    backed = [row_state.cell for _, row_state in rows if row_state.cell is not None]
    protocol = _one_protocol(table.name, name, backed)
    columns = {heading: key for heading, key in table.columns.items() if _shown(heading, key, table.of(name))}
    printed = {heading for heading in columns if any(row.printed[heading] for row, _ in rows)}
    titles = _titles(columns, printed, _columns_of(inputs, name))
    shown = [_cells(inputs, row, row_state, columns, printed) for row, row_state in rows]
    title = str(table.parts[name]["title"])
    measured_here = _describe_run(backed) or _describe_latency(row_state for _, row_state in rows)
    part = TablePart(title + measured_here, ["method", "bits", *titles, "state"], shown, protocol)
    return _with_matched(part, inputs, name, columns)


def _with_matched(part: TablePart, inputs: _ViewInputs, name: str, columns: Mapping[str, str | None]) -> TablePart:
    """Add the width that is matched and what was measured there, before the state; the part itself where nothing is matched."""
    numbers = [number for number, row in enumerate(inputs.table.rows) if row.part == name]
    if inputs.matched.keys().isdisjoint(numbers):
        return part
    keys = {heading: key for heading, key in columns.items() if key is not None and not key.startswith("cost.")}
    titles = _titles(keys, set(), _columns_of(inputs, name))
    part.heads[-1:] = ["matched bits", *(title.replace(", here", " at these bits") for title in titles), part.heads[-1]]
    for number, values in zip(numbers, part.rows, strict=True):
        row, state = inputs.matched.get(number, (None, None))
        measured_there = [
            "" if row is None or state is None else _measured(inputs, row, state, key) for key in keys.values()
        ]
        values[-1:] = ["" if row is None else row.setting("digits"), *measured_there, values[-1]]
    return part


def _cells(
    inputs: _ViewInputs, row: Row, row_state: RowState, columns: Mapping[str, str | None], printed: Container[str]
) -> list[str]:
    """The strings of one row: for each column the printed number, if the part prints any, and the measured one, if there is one."""
    values = [row.method, row.bits]
    for heading, key in columns.items():
        if heading in printed:
            values.append(row.printed[heading])
        if key is not None:
            values.append(_measured(inputs, row, row_state, key))
    return [*values, row_state.state]


def _measured(inputs: _ViewInputs, row: Row, row_state: RowState, key: str) -> str:
    cell = row_state.cell
    if key.startswith("cost."):
        return counting.cost(inputs.table, row, key, inputs.scale, inputs.counted)
    if row_state.latency is not None and key.startswith("latency."):
        return latencies.shown(row_state.latency, row, key)
    if cell is None:
        return ""
    number = measured(cell, key, row.full)
    if number is None:
        return "" if row.full and key.startswith("paired.") else _ABSENT.get(key, "not in this protocol")
    return number.shown


def _titles(columns: Mapping[str, str | None], printed: set[str], names: Mapping[str, str]) -> list[str]:
    """Headings; where printed and measured numbers are shown, the measured one has its own name, as FD-digits is not FID."""
    titles = []
    for heading, key in columns.items():
        if heading in printed:
            titles.append(heading if key is None else f"{heading}, paper")
        if key is not None:
            titles.append(f"{_measured_as(heading, key, names)}, here")
    return titles


def _measured_as(heading: str, key: str, names: Mapping[str, str]) -> str:
    """The protocol's own name for a distance, with the arrow of the heading; other headings as they are."""
    side, _, number = key.partition(".")
    if number not in names or side not in _DISTANCES:
        return heading
    return names[number] + _DISTANCES[side] + (heading[-2:] if heading[-1] in "↓↑" else "")


def _columns_of(inputs: _ViewInputs, name: str) -> Mapping[str, str]:
    """Names of the columns in the protocol of a part."""
    row = next((row for row in inputs.table.of(name) if not row.full), None)
    if row is None:
        return {}
    names: Mapping[str, str] = configured(job(inputs.table, row, inputs.scale))["protocol"]["columns"]
    return names


def _shown(heading: str, key: str | None, rows: Sequence[Row]) -> bool:
    """Whether a column is shown in a part: if the paper prints it there or, where it prints nothing at all, if it is measured."""
    printed = {printed_heading for row in rows for printed_heading, value in row.printed.items() if value}
    return heading in printed or (key is not None and not printed)


def _one_protocol(table: str, part: str, backed: Sequence[Evaluation]) -> str:
    cells_by_protocol = {f"{cell.protocol['name']} `{cell.protocol['hash']}`": cell for cell in backed}
    weights = {str(cell.config["model"].get("sha256"))[:8] for cell in backed}
    for what, names in (("protocols", cells_by_protocol), ("versions of the model's weights", weights)):
        if len(names) > 1:
            raise ConfigError(
                f"The cells of {part} in the table {table} were measured with {len(names)} {what} ({', '.join(sorted(names))}), which cannot"
                " share a column; remove those that do not belong."
            )
    return next(iter(cells_by_protocol), "")


def _describe_run(backed: Sequence[Evaluation]) -> str:
    if not backed:
        return ""
    sampler = backed[0].config["sampler"]
    eta = f", eta = {sampler['eta']}" if sampler["eta"] else ""
    steps = dict.fromkeys(str(cell.config["sampler"]["num_inference_steps"]) for cell in backed)
    return f"; measured: {backed[0].model}, {', '.join(steps)} steps{eta}"


def _describe_latency(row_states: Iterable[RowState]) -> str:
    first = next((row_state.latency for row_state in row_states if row_state.latency is not None), None)
    return "" if first is None else f"; measured: {latencies.described(first)}"


def _matched_verdicts(table: PaperTable, row_states: Mapping[int, RowState], known: _Known) -> list[claims.Verdict]:
    """Judge the claims about numbers at the matched widths, too, where any of their rows was measured there."""
    if not any(state.cell for state in row_states.values()):
        return []
    states = {number: row_states.get(number, RowState(NOT_RUN)) for number in range(len(table.rows))}
    verdicts = [_verdict(table, claim, states, known) for claim in table.claims if "better" in claim]
    return [
        replace(verdict, says=f"at matched widths, {verdict.says}")
        for verdict in verdicts
        if verdict.short != claims.UNKNOWN
    ]


def _verdict(
    table: PaperTable, claim: Mapping[str, Any], row_states: Mapping[int, RowState], known: _Known
) -> claims.Verdict:
    if "unchecked" in claim:
        return claims.Verdict(str(claim["says"]), f"{claims.NOT_AVAILABLE}{claim['unchecked']}")
    if "latency" in claim or "bytes" in claim:
        by_cell = {
            str(state.latency.config): state.latency for state in row_states.values() if state.latency is not None
        }
        return latencies.verdict(claim, by_cell.values())
    if "trace" in claim:
        backing = {row.method: row_states[number].cell for number, row in enumerate(table.rows)}
        keys = {method: cell.artifacts.get("trace", "") for method, cell in backing.items() if cell is not None}
        learned = {method for method, cell in backing.items() if cell and learning_seed(cell) is not None}
        by_method = {method: known.traced[key] for method, key in keys.items() if key in known.traced}
        return traces.verdict(claim, by_method, learned)
    cells = {id(row): row_states[number].cell for number, row in enumerate(table.rows)}

    def look(row: Row, heading: str) -> Entry | None:
        cell, key = cells[id(row)], table.columns[heading]
        return None if cell is None or key is None else measured(cell, key, row.full)

    def of_both(ask: Callable[[Evaluation, Evaluation, str, str], _T | None], *rows: Row, heading: str) -> _T | None:
        first, second = (None if row.full else cells[id(row)] for row in rows)
        side, _, key = str(table.columns[heading]).partition(".")
        return None if first is None or second is None else ask(first, second, side, key)

    return claims.verdict(
        table, claim, look,
        lambda first, second, heading: of_both(known.pairs, first, second, heading=heading),
        lambda first, second, heading: of_both(known.learnings, first, second, heading=heading),
    )  # fmt: skip
