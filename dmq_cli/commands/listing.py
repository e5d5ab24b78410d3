"""dmq list: what there is to choose from."""

from __future__ import annotations

from typing import Any

import click

from dmq_cli import catalog
from dmq_cli.commands.output import HELP, aligned, run, show
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.guard import with_flags


@click.command("list", context_settings=HELP)
@click.argument("what")
@with_flags
@click.pass_context
def list_choices(context: click.Context, /, what: str, **flags: bool) -> None:
    """Print what there is to choose from: list methods, list models."""
    run(context, flags, lambda on: _list(what, on))


def _list(what: str, flags: set[str]) -> None:
    if what not in _LISTS:
        raise ConfigError(f"There is no list of {what}.{nearest(what, _LISTS)}")
    read, lines = _LISTS[what]
    rows = read()
    show({what: rows}, aligned(lines(rows)), flags)


def _method_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Name, a column for each group, citation."""
    groups = list(dict.fromkeys(group for row in rows for group in row["groups"]))

    def columns(chosen: dict[str, str]) -> list[str]:
        return [f"{group}={chosen[group]}" if group in chosen else "" for group in groups]

    return [[row["name"], *columns(row["groups"]), row["cite"]] for row in rows]


def _model_lines(rows: list[dict[str, Any]]) -> list[list[str]]:
    return [[row["name"], "present" if row["present"] else "missing", row["about"]] for row in rows]


_LISTS = {"methods": (catalog.methods, _method_lines), "models": (catalog.models, _model_lines)}
