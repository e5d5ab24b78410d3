"""dmq list: what there is to choose from, and what there is already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dmq_cli import catalog, inventory
from dmq_cli.commands.output import HELP, aligned, bytes_of, outputs_of, run, show
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.guard import with_flags

Rows = list[dict[str, Any]]


@click.command("list", context_settings=HELP)
@click.argument("what", metavar="WHAT")
@click.argument("words", nargs=-1, metavar="[runtime.outputs=FOLDER]")
@with_flags
@click.pass_context
def list_choices(context: click.Context, /, what: str, words: tuple[str, ...], **flags: bool) -> None:
    """Print methods, models, protocols, tables, runs or artifacts: list WHAT."""
    run(context, flags, lambda on: _list(what, words, on))


def _list(what: str, words: Sequence[str], flags: set[str]) -> None:
    if what not in _LISTS:
        raise ConfigError(f"There is no list of {what}.{nearest(what, _LISTS)}")
    read, lines = _LISTS[what]
    outputs = outputs_of("list", words)
    rows = read(outputs)
    show({what: rows}, aligned(lines(rows)) if rows else f"There are no {what} in {outputs}.", flags)


def _method_lines(rows: Rows) -> list[list[str]]:
    """Name, a column for each group, citation."""
    groups = list(dict.fromkeys(group for row in rows for group in row["groups"]))

    def columns(chosen: dict[str, str]) -> list[str]:
        return [f"{group}={chosen[group]}" if group in chosen else "" for group in groups]

    return [[row["name"], *columns(row["groups"]), row["cite"]] for row in rows]


def _present(row: dict[str, Any]) -> str:
    return "present" if row["present"] else "missing"


def _model_lines(rows: Rows) -> list[list[str]]:
    return [[row["name"], _present(row), row["about"]] for row in rows]


def _protocol_lines(rows: Rows) -> list[list[str]]:
    return [
        [row["name"], _present(row), row["extractor"], f"{row['images']} images", ", ".join(row["columns"])]
        for row in rows
    ]


def _table_lines(rows: Rows) -> list[list[str]]:
    def count(row: dict[str, Any]) -> str:
        return f"{row['finished']}" if row["total"] is None else f"{row['finished']}/{row['total']}"

    return [[row["name"], row["kind"], f"{count(row)} cells"] for row in rows]


def _run_lines(rows: Rows) -> list[list[str]]:
    def columns(row: dict[str, Any]) -> list[str]:
        found = [str(row[name]) for name in ("time", "verb", "model", "method", "bits")]
        state, _, why = " ".join(str(row["state"]).split()).partition(": ")
        numbers = ", ".join(f"{name} {value:.2f}" for name, value in row["numbers"].items())
        return [*found, state, numbers, row["run"], why]  # a sentence last, where its width moves nothing

    return [columns(row) for row in rows]


def _artifact_lines(rows: Rows) -> list[list[str]]:
    return [
        [row["stage"], row["key"], bytes_of(row["bytes"]), f"{row['age'] / 86400:.1f} days", f"used by {row['used']}"]
        for row in rows
    ]


_LISTS: dict[str, tuple[Callable[[Path], Rows], Callable[[Rows], list[list[str]]]]] = {
    "methods": (lambda outputs: catalog.methods(), _method_lines),
    "models": (lambda outputs: catalog.models(), _model_lines),
    "protocols": (lambda outputs: catalog.measures(), _protocol_lines),
    "tables": (lambda outputs: catalog.tables(inventory.cells(outputs)), _table_lines),
    "runs": (inventory.runs, _run_lines),
    "artifacts": (inventory.artifacts, _artifact_lines),
}
