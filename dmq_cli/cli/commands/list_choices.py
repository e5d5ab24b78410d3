"""dmq list: list the choices, and the runs, tables and artifacts that exist."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dmq_cli import choices
from dmq_cli.cli.commands.output import HELP, aligned, bytes_of, outputs_of, run, show
from dmq_cli.cli.commands.wanted import ListedRows, Wanted
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.results import inventory
from dmq_cli.sentences import with_flags

if TYPE_CHECKING:
    from dmq_cli.metrics import Metric


@click.command("list", context_settings=HELP)
@click.argument("what", metavar="WHAT")
@click.argument("words", nargs=-1, metavar="[COLUMN=VALUE]... [runtime.outputs=FOLDER]")
@click.option("--sort", metavar="COLUMN", help="Order by a column, or by a number such as fd; smallest first.")
@click.option("--reverse", is_flag=True, help="The other way round.")
@click.option("--last", type=click.IntRange(min=1), metavar="N", help="Of the runs that fit, only the N newest.")
@click.option("--failed", is_flag=True, help="Of runs, only those that failed or are broken.")
@click.option("--all", "every", is_flag=True, help="Of tables, also those without a finished cell.")
@with_flags
@click.pass_context
def list_choices(context: click.Context, /, what: str, words: tuple[str, ...], every: bool, **options: Any) -> None:
    """Print methods, models, metrics, protocols, tables, runs or artifacts: list WHAT.

    COLUMN=VALUE keeps the rows that have it, e.g. list runs method=tac,tfmq bits=w4a8 correct.ner=false --sort fd --last 20.
    VALUE may be several with commas, and patterns with *.
    """
    flags = {flag: options.pop(flag) for flag in ("verbose", "quiet", "json")}
    run(context, flags, lambda on: _list(what, words, Wanted(**options), every, on))


def _list(what: str, words: Sequence[str], row_filter: Wanted, all_tables: bool, flags: set[str]) -> None:
    if what not in _LISTS:
        raise ConfigError(f"There is no list of {what}.{nearest(what, _LISTS)}")
    read, lines, columns = _LISTS[what]
    places = [word for word in words if word.startswith("runtime.outputs=")]
    filters = [word for word in words if word not in places]
    row_filter.check(what, columns, filters)
    outputs = outputs_of("list", places)
    every = read(outputs)
    rows = row_filter.of(every, filters)
    printed = [row for row in rows if row["finished"]] if what == "tables" and not (filters or all_tables) else rows
    hidden = len(rows) - len(printed)
    more = f"\n{hidden} more tables have no finished cell; dmq list tables --all shows them." if hidden else ""
    none = f"There are no {what}{' like this' if every else ''} in {outputs}."
    show({what: rows}, (aligned(lines(printed)) if printed else none) + more, flags)


def _method_lines(rows: ListedRows) -> list[list[str]]:
    """Name, a column for each group, citation."""
    groups = list(dict.fromkeys(group for row in rows for group in row["groups"]))

    def columns(chosen: dict[str, str]) -> list[str]:
        return [f"{group}={chosen[group]}" if group in chosen else "" for group in groups]

    return [[row["name"], *columns(row["groups"]), row["cite"]] for row in rows]


def _present(row: dict[str, Any]) -> str:
    return "present" if row["present"] else "missing"


def _model_lines(rows: ListedRows) -> list[list[str]]:
    return [[row["name"], _present(row), row["about"]] for row in rows]


def _metrics(outputs: Path) -> ListedRows:
    """name, arrow (where better is), needs and about of every file in conf/metric."""
    from dmq_cli.metrics.shown import classes

    return [
        {
            "name": name,
            "arrow": metric.results[0].arrow,
            "needs": _needs(metric),
            "about": choices.about("metric", name),
        }
        for name, metric in classes().items()
    ]


def _needs(metric: type[Metric]) -> list[str]:
    """List the inputs of a metric besides the sampled images."""
    from dmq_cli.metrics import SetMetric, TwinMetric

    real = issubclass(metric, SetMetric) and metric.reference is not None
    needs = {"real images": real, "full-precision images": issubclass(metric, TwinMetric), "prompts": metric.asks}
    needs |= {f"{' or '.join(metric.extractors)}": bool(metric.extractors)}
    needs |= {f"protocol.{metric.weights}_path": metric.weights is not None}
    return [what for what, needed in needs.items() if needed]


def _metric_lines(rows: ListedRows) -> list[list[str]]:
    return [[row["name"], row["arrow"], ", ".join(row["needs"]), row["about"]] for row in rows]


def _protocol_lines(rows: ListedRows) -> list[list[str]]:
    return [
        [row["name"], _present(row), row["extractor"], f"{row['images']} images", ", ".join(row["columns"])]
        for row in rows
    ]


def _table_lines(rows: ListedRows) -> list[list[str]]:
    def count(row: dict[str, Any]) -> str:
        return f"{row['finished']}" if row["total"] is None else f"{row['finished']}/{row['total']}"

    return [[row["name"], row["kind"], f"{count(row)} cells"] for row in rows]


def _run_lines(rows: ListedRows) -> list[list[str]]:
    """Order columns by length: short ones first, sentences last, where their width does not matter."""

    def columns(row: dict[str, Any]) -> list[str]:
        names = [str(row[name]) for name in ("verb", "model", "method", "bits")]
        state, _, why = " ".join(str(row["state"]).split()).partition(": ")
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in row["numbers"].items())
        measured = [str(row[name]) for name in ("protocol", "images", "budget")]
        last = "; ".join(filter(None, (why, " ".join(row["overrides"]))))
        return [_minute(row["time"]), *names, state, numbers, *measured, row["run"], last]

    return [columns(row) for row in rows]


def _minute(time: str) -> str:
    """Shorten an ISO time to 2026-01-02 03:04."""
    return str(time)[:16].replace("T", " ")


def _artifact_lines(rows: ListedRows) -> list[list[str]]:
    return [
        [row["stage"], row["key"], bytes_of(row["bytes"]), f"{row['age'] / 86400:.1f} days", f"used by {row['used']}"]
        for row in rows
    ]


def _tables(outputs: Path) -> ListedRows:
    from dmq_cli.papers.tables import tables

    return tables(inventory.cells(outputs))


_RUNS = (
    "time",
    "verb",
    "model",
    "method",
    "bits",
    "overrides",
    "protocol",
    "images",
    "budget",
    "state",
    "numbers",
    "run",
)
_LISTS: dict[str, tuple[Callable[[Path], ListedRows], Callable[[ListedRows], list[list[str]]], tuple[str, ...]]] = {
    "methods": (lambda outputs: choices.methods(), _method_lines, ("name", "cite")),
    "models": (lambda outputs: choices.models(), _model_lines, ("name", "about", "present")),
    "metrics": (_metrics, _metric_lines, ("name", "arrow", "needs", "about")),
    "protocols": (
        lambda outputs: choices.measures(),
        _protocol_lines,
        ("name", "extractor", "images", "columns", "present"),
    ),
    "tables": (
        _tables,
        _table_lines,
        ("name", "kind", "finished", "total"),
    ),
    "runs": (inventory.runs, _run_lines, _RUNS),
    "artifacts": (inventory.artifacts, _artifact_lines, ("stage", "key", "bytes", "age", "used")),
}
