"""The numbers of several runs as tables: one for each protocol, so that a column never mixes two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmq_cli.report.tables import _STAGES as STAGES
from dmq_cli.report.tables import headings, is_random, order
from dmq_cli.results.noise import Measured, measured, over_full
from dmq_cli.results.runs import Result, flatten
from dmq_cli.results.verdict import LOWER_IS_BETTER, NAMES, UNITS, difference, shown, spread, verdict
from dmq_cli.store import digest

_SAMPLED_IN = ("model", "weights", "seeds", "fp_seeds")
_CONFIGURED = ("sampler", "numerics", "cond", "to_uint8")


@dataclass(frozen=True)
class Value:
    """A number in a table. more: its interval or deviation; delta: to full precision; judged: what `verdict` says of it."""

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
    groups: dict[str, dict[str, Result]] = {}
    for label, result in sorted(runs.items(), key=lambda item: order(item[1].metrics)):
        groups.setdefault(digest(_standing(result.metrics)), {})[label] = result
    return list(groups.values())


def result_table(runs: Mapping[str, Result]) -> Table:
    """The table of one group of `by_protocol`."""
    cells = {label: result.metrics for label, result in runs.items()}
    first = next(iter(cells.values()))
    columns = columns_of([*cells.values()])
    full = [_value(first, "fp", column.key) if column.side != "paired" else Value() for column in columns]
    best = {
        column: _best([measured(cell, column.side, column.key) for cell in cells.values()], column.key)
        for column in columns
    }
    rows = [
        (label, [_value(cell, column.side, column.key, best[column]) for column in columns])
        for label, cell in cells.items()
    ]
    return Table(caption(first), first["protocol"]["name"], columns, full, rows)


def columns_of(cells: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The protocol's columns that were measured, FD-inf beside FD where it was, then what was compared image by image."""
    kept = [
        Column(key, _arrow(name, key), "quantized")
        for key, name in headings(cells[0]).items()
        if any(key in cell["quantized"] for cell in cells)
    ]
    paired = [key for key in dict.fromkeys(key for cell in cells for key in cell["paired"]) if key in NAMES]
    return [*kept, *(Column(key, _arrow(NAMES[key], key), "paired") for key in paired)]


def caption(metrics: Mapping[str, Any]) -> str:
    """Model, steps, images, seeds and protocol in one line."""
    config = metrics["config"]
    guidance = (config.get("cond") or {}).get("guidance")
    several = len(metrics["seeds"]) > 1
    parts = [
        metrics["model"] + (" (random weights)" if is_random(dict(metrics)) else ""),
        f"{config['sampler']['num_inference_steps']} steps",
        *([] if guidance is None else [f"guidance {guidance}"]),
        f"{metrics['protocol']['num_images']} images" + (" in each seed range" if several else ""),
        f"seeds {', '.join(metrics['seeds'])}",
    ]
    if metrics.get("fp_seeds", metrics["seeds"]) != metrics["seeds"]:
        parts.append(f"full precision over seeds {', '.join(metrics['fp_seeds'])}")
    return f"{', '.join(parts)}; protocol {metrics['protocol']['name']} ({metrics['protocol']['hash']})"


@dataclass(frozen=True)
class Cost:
    """What a run costs. size: MB of 10^6 bytes; gbops: of one network call; seconds: by kind of stage, as it was made."""

    label: str
    size: str
    smaller: str
    gbops: str
    fewer: str
    seconds: list[str]


SECONDS = list(STAGES)


def costs(runs: Mapping[str, Result]) -> list[Cost]:
    """A row for each run that counted its cost."""
    return [_cost(label, result.metrics) for label, result in runs.items() if "cost" in result.metrics]


def _standing(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """All that the full-precision numbers rest on; what is null says no more than what is not there."""
    parts = {key: metrics.get(key) for key in _SAMPLED_IN}
    parts |= {key: metrics["config"].get(key) for key in _CONFIGURED}
    found = flatten({**parts, "protocol": metrics["protocol"]["hash"], "sha": metrics["config"]["model"].get("sha256")})
    return {key: value for key, value in found.items() if value not in (None, {}, [])}


def _cost(label: str, metrics: Mapping[str, Any]) -> Cost:
    cost = metrics["cost"]
    times = [sum(s for name, s in metrics["seconds"].items() if name.startswith(own)) for own in STAGES.values()]
    return Cost(
        label + ("" if cost.get("deployable", True) else " (not deployable)"),
        f"{cost['size_bytes'] / 1e6:.2f}",
        f"{cost['size_bytes_fp'] / cost['size_bytes']:.1f}\u00d7",
        f"{cost['bops'] / 1e9:.1f}",
        f"{cost['bops_fp'] / cost['bops']:.1f}\u00d7",
        [f"{seconds:.0f}" for seconds in times],
    )


def _value(metrics: Mapping[str, Any], side: str, key: str, best: float | None = None) -> Value:
    number = measured(metrics, side, key)
    if number is None:
        return Value()
    text, more, is_best = shown(number.value) + UNITS.get(key, ""), spread(metrics, side, key), number.value == best
    if side != "quantized" or measured(metrics, "fp", key) is None:
        return Value(text, more, best=is_best)
    over, inside = over_full(metrics, key)
    return Value(text, more, difference(number.value, number.value - over), verdict(inside), is_best)


def _best(column: Sequence[Measured | None], key: str) -> float | None:
    """The best value of a column; None where all are the same."""
    values = {number.value for number in column if number is not None}
    if len(values) < 2:
        return None
    return min(values) if key in LOWER_IS_BETTER else max(values)


def _arrow(name: str, key: str) -> str:
    return f"{name} {'↓' if key in LOWER_IS_BETTER else '↑'}"
