"""dmq clean: removes artifacts that nothing needs any more."""

from __future__ import annotations

import re
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dmq_cli import inventory
from dmq_cli.commands.output import HELP, aligned, bytes_of, outputs_of, run, show
from dmq_cli.errors import ArtifactCorruptError, ConfigError, DmqError
from dmq_cli.guard import with_flags
from dmq_cli.store import ArtifactStore, read_json

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_TRAINED = "train_"  # what `dmq train` made is a model, and models are kept


@dataclass(frozen=True)
class Unneeded:
    """Something to remove: an artifact, or what a killed attempt left of one (leftover). bytes: what that frees."""

    stage: str
    key: str
    bytes: int
    leftover: bool


@click.command(context_settings=HELP)
@click.option("--older-than", "age", metavar="AGE", help="Only what is older: 30m, 12h, 7d or 2w.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.argument("words", nargs=-1, metavar="[runtime.outputs=FOLDER]")
@with_flags
@click.pass_context
def clean(
    context: click.Context, /, age: str | None, yes: bool, dry_run: bool, words: tuple[str, ...], **flags: bool
) -> None:
    """Remove artifacts that no run and no cell of a table needs, after asking."""
    run(context, flags, lambda on: _clean(outputs_of("clean", words), seconds(age), yes, dry_run, on))


def seconds(age: str | None) -> float:
    """The seconds that "7d" means; 0 for None. Raises ConfigError."""
    match = re.fullmatch(r"(\d+)([mhdw])", age or "0m")
    if match is None:
        raise ConfigError(f"--older-than {age} is no age; write a whole number and m, h, d or w, e.g. 7d.")
    return float(match[1]) * _SECONDS[match[2]]


def _clean(outputs: Path, age: float, yes: bool, dry_run: bool, flags: set[str]) -> None:
    found = list(unneeded(outputs, age))
    total = sum(one.bytes for one in found)
    said = f"{len(found)} artifacts and leftovers, {bytes_of(total)}"
    result = {"artifacts": [vars(one) for one in found], "bytes": total, "removed": False}
    if not found or dry_run:
        show(result, _table(found) + (f"Unneeded: {said}." if found else "Nothing to remove."), flags)
        return
    if not yes and not _confirmed(found, said):
        show(result, "Nothing was removed.", flags)
        return
    store = ArtifactStore(outputs / "artifacts")
    for one in found:
        store.remove(one.stage, one.key)
    show({**result, "removed": True}, f"Removed {said}.", flags)


def _confirmed(found: Sequence[Unneeded], said: str) -> bool:
    """Show what would go, ask, and whether the answer is yes. Raises ConfigError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise ConfigError(f"There is no terminal to ask whether to remove {said}; write dmq clean --yes, or --dry-run.")
    click.echo(_table(found), err=True, nl=False)
    return click.confirm(f"Remove {said}?", err=True)


def _table(found: Sequence[Unneeded]) -> str:
    """A line for each stage: how many and how much."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for one in found:
        name = f"{one.stage} (leftover)" if one.leftover else one.stage
        counts[name] += 1
        sizes[name] += one.bytes
    rows = [[name, f"{counts[name]} artifacts", bytes_of(sizes[name])] for name in sorted(counts)]
    return aligned(rows) + "\n" if rows else ""


def unneeded(outputs: Path, age: float = 0.0) -> Iterator[Unneeded]:
    """What can be removed: not needed by a run, finished or not, nor by a cell, not being computed, and older than `age` seconds.

    What a killed attempt left is needed as long as its run says that it is running: the same command goes on with it.
    """
    store, before = ArtifactStore(outputs / "artifacts"), time.time() - age
    needed = set(inventory.needed(outputs)) | _unfinished(outputs)
    for stage in inventory.stages(store):
        if stage.startswith(_TRAINED):
            continue
        for key in store.keys(stage):
            folder = store.root / stage / key
            if (stage, key) not in needed and not store.busy(stage, key) and folder.stat().st_mtime <= before:
                yield Unneeded(stage, key, inventory.size(folder), leftover=False)
        for key, folders in store.leftovers(stage).items():
            if (stage, key) not in needed and max(one.stat().st_mtime for one in folders) <= before:
                yield Unneeded(stage, key, sum(map(inventory.size, folders)), leftover=True)


def _unfinished(outputs: Path) -> set[tuple[str, str]]:
    """What the runs that are not over will need, by their configuration."""
    found: set[tuple[str, str]] = set()
    for folder in inventory.run_folders(outputs):
        config = _running(folder)
        if config is not None and config["stage"] != "train":
            from dmq_cli.stages.verbs import needs

            with suppress(KeyError, TypeError, DmqError):  # of an earlier version: no command goes on with it
                found |= needs(config)
    return found


def _running(folder: Path) -> dict[str, Any] | None:
    """The configuration of a run that is not over; None for one that is, or that is broken."""
    try:
        if read_json(folder / "status.json")["status"] != "running":
            return None
        return dict(read_json(folder / "config.json"))
    except (ArtifactCorruptError, KeyError, TypeError, ValueError):
        return None
