"""Shared by all commands: flags before and after the name, printing as text or JSON, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from dmq_cli import choices
from dmq_cli.errors import ConfigError
from dmq_cli.overrides import as_hydra
from dmq_cli.printing import one_line, printable
from dmq_cli.sentences import guarded
from dmq_cli.store.files import naming

HELP = {"help_option_names": ["-h", "--help"]}


def run(context: click.Context, own_flags: dict[str, bool], action: Callable[[set[str]], None]) -> None:
    """Run an action with the flags before and after the command's name, and exit with its code."""
    flags = set(context.obj) | {flag for flag, on in own_flags.items() if on}
    sys.exit(guarded(lambda: action(flags), "json" in flags))


def show(result: dict[str, Any], text: str, flags: set[str]) -> None:
    """Print a result: one line of JSON with --json, nothing with -q, otherwise the text."""
    with naming(Path("the standard output")):
        if "json" in flags:
            click.echo(json.dumps(result))
        elif "quiet" not in flags:
            click.echo(printable(text))


def say(text: str, flags: set[str]) -> None:
    """Print on stderr what is about to happen, before the seconds that imports take; nothing with -q and --json."""
    if not flags & {"quiet", "json"}:
        click.echo(printable(text), err=True)


def pairs(entries: dict[str, str]) -> str:
    """Write a line for each entry."""
    return "\n".join(one_line(f"{key}: {value}") for key, value in entries.items())


def aligned(lines: list[list[str]]) -> str:
    """Write a line for each row, with aligned columns, whatever their texts hold."""
    lines = [[one_line(text) for text in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{w:{n}}" for w, n in zip(line, widths, strict=True)).rstrip() for line in lines)


def protocol_section(name: str, words: Sequence[str]) -> dict[str, Any]:
    """Compose a protocol's section with overrides such as protocol.num_images=500. Raises ConfigError and Hydra's errors."""
    from dmq_cli.overrides.check import check_words

    check_words(words)
    return choices.protocol_with(name, as_hydra(words))


def bytes_of(count: int) -> str:
    """Format a number of bytes, in powers of 1000."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count} B"


def confirmed(listing: str, summary: str, command: str) -> bool:
    """Show what would be removed, ask, and return whether the answer is yes. Raises ConfigError without a terminal."""
    if not sys.stdin.isatty():
        raise ConfigError(
            f"There is no terminal to ask whether to remove {summary}; write dmq {command} --yes, or --dry-run."
        )
    click.echo(printable(listing), err=True, nl=False)
    return click.confirm(f"Remove {summary}?", err=True)


def outputs_of(command: str, words: Sequence[str]) -> Path:
    """Read the folder of runtime.outputs=FOLDER; outputs without it. Raises ConfigError for any other word."""
    outputs = "outputs"
    for word in words:
        key, _, outputs = word.partition("=")
        if key != "runtime.outputs" or not outputs:
            raise ConfigError(
                f"The command {command} was given {word}, but reads only runtime.outputs=FOLDER; leave it out."
            )
    return Path(outputs).expanduser()
