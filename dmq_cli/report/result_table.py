"""The numbers of several runs as tables: one for each protocol, so that a column never mixes two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from dmq_cli.metrics.shown import of_twins
from dmq_cli.report.tables import _STAGES as STAGES
from dmq_cli.report.tables import headings, order
from dmq_cli.results.noise import over_full
from dmq_cli.results.record import Evaluation, NetworkCost, Number
from dmq_cli.results.runs import Result
from dmq_cli.results.standing import grouped
from dmq_cli.results.verdict import difference, lower_is_better, spread, verdict, with_unit


@dataclass(frozen=True)
class Value:
    """A number in a table. more: its interval or deviation; delta: to full precision; judged: its `verdict`."""

    text: str = ""
    more: str = ""
    delta: str = ""
    judged: str = ""
    best: bool = False


@dataclass(frozen=True)
class Column:
    """side: fp and quantized share a column, paired numbers have one of their own."""

    key: str
    title: str
    side: str


@dataclass(frozen=True)
class Table:
    """full: the row of the full-precision network; rows: label and values of every run, in order."""

    caption: str
    protocol: str
    columns: list[Column]
    full: list[Value]
    rows: list[tuple[str, list[Value]]] = field(default_factory=list)


def by_protocol(runs: Mapping[str, Result]) -> list[dict[str, Result]]:
    """The runs, sorted, in groups that may share a table: one protocol, model, sampler and set of seeds each."""
    ordered = sorted(runs.items(), key=lambda item: order(item[1].evaluation))
    groups = grouped((label, result.evaluation) for label, result in ordered)
    return [{label: runs[label] for label, _ in group} for group in groups]


def result_table(runs: Mapping[str, Result]) -> Table:
    """The table of one group of `by_protocol`."""
    cells = {label: result.evaluation for label, result in runs.items()}
    first = next(iter(cells.values()))
    columns = columns_of([*cells.values()])
    full = [_value(first, "fp", column.key) if column.side != "paired" else Value() for column in columns]
    best = {
        column: _best([cell.number(column.side, column.key) for cell in cells.values()], column.key)
        for column in columns
    }
    rows = [
        (label, [_value(cell, column.side, column.key, best[column]) for column in columns])
        for label, cell in cells.items()
    ]
    return Table(caption(first), first.protocol["name"], columns, full, rows)


def columns_of(cells: Sequence[Evaluation]) -> list[Column]:
    """The protocol's columns that were measured, FD-inf beside FD where it was, then comparisons image by image."""
    measured = [
        Column(key, _arrow(name, key), "quantized")
        for key, name in headings(cells[0]).items()
        if any(key in cell.quantized for cell in cells)
    ]
    names = of_twins()
    paired = [key for key in dict.fromkeys(key for cell in cells for key in cell.paired) if key in names]
    return [*measured, *(Column(key, _arrow(names[key], key), "paired") for key in paired)]


def caption(evaluation: Evaluation) -> str:
    """Model, steps, images, seeds and protocol in one line."""
    config, protocol = evaluation.config, evaluation.protocol
    guidance = (config.get("cond") or {}).get("guidance")
    several = len(evaluation.seeds) > 1
    parts = [
        evaluation.model + (" (random weights)" if evaluation.random else ""),
        f"{config['sampler']['num_inference_steps']} steps",
        *([] if guidance is None else [f"guidance {guidance}"]),
        f"{evaluation.num_images} images" + (" in each seed range" if several else ""),
        f"seeds {', '.join(evaluation.seeds)}",
    ]
    if evaluation.fp_seeds != evaluation.seeds:
        parts.append(f"full precision over seeds {', '.join(evaluation.fp_seeds)}")
    return f"{', '.join(parts)}; protocol {protocol['name']} ({protocol['hash']})"


@dataclass(frozen=True)
class CostRow:
    """The cost of a run. size: MB of 10^6 bytes; gbops: of one network call; seconds: by kind of stage, when it was made."""

    label: str
    size: str
    smaller: str
    gbops: str
    fewer: str
    seconds: list[str]


SECONDS = list(STAGES)


def costs(runs: Mapping[str, Result]) -> list[CostRow]:
    """Make a row for each run with a cost."""
    return [
        _cost(label, cost, result.evaluation)
        for label, result in runs.items()
        if (cost := result.evaluation.cost) is not None
    ]


def _cost(label: str, cost: NetworkCost, evaluation: Evaluation) -> CostRow:
    times = [
        sum(seconds for name, seconds in evaluation.seconds.items() if name.startswith(stages))
        for stages in STAGES.values()
    ]
    return CostRow(
        label + ("" if cost.deployable else " (not deployable)"),
        f"{cost.size_bytes / 1e6:.2f}",
        f"{cost.size_bytes_fp / cost.size_bytes:.1f}\u00d7",
        f"{cost.bops / 1e9:.1f}",
        f"{cost.bops_fp / cost.bops:.1f}\u00d7",
        [f"{seconds:.0f}" for seconds in times],
    )


def _value(evaluation: Evaluation, side: str, key: str, best: float | None = None) -> Value:
    number = evaluation.number(side, key)
    if number is None:
        return Value()
    text, more, is_best = with_unit(number), spread(number), number.value == best
    if side != "quantized" or key not in evaluation.fp:
        return Value(text, more, best=is_best)
    over, inside = over_full(evaluation, key)
    return Value(text, more, difference(number.value, number.value - over), verdict(inside), is_best)


def _best(column: Sequence[Number | None], key: str) -> float | None:
    """The best value of a column; None where all are the same."""
    values = {number.value for number in column if number is not None}
    if len(values) < 2:
        return None
    return min(values) if lower_is_better(key) else max(values)


def _arrow(name: str, key: str) -> str:
    return f"{name} {'↓' if lower_is_better(key) else '↑'}"
