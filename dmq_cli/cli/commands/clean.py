"""dmq clean: remove artifacts that no run and no cell needs any more; with --runs, folders of runs (clean_runs.py)."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dmq_cli.cli.commands.clean_runs import clean_runs
from dmq_cli.cli.commands.output import HELP, aligned, bytes_of, confirmed, outputs_of, run, show
from dmq_cli.errors import ArtifactCorruptError, ArtifactError, ConfigError, DmqError
from dmq_cli.results import inventory
from dmq_cli.sentences import with_flags
from dmq_cli.store import ArtifactStore, is_alive, is_manifest_of, read_json

_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_KEY = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Unneeded:
    """Something to remove: an artifact, or files of a killed attempt (leftover). bytes: freed by removing it."""

    stage: str
    key: str
    bytes: int
    leftover: bool


@click.command(context_settings=HELP)
@click.option("--older-than", "age", metavar="AGE", help="Only what is older: 30m, 12h, 7d or 2w.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--dry-run", is_flag=True, help="Only show what would be removed.")
@click.option("--runs", is_flag=True, help="Remove folders of runs that are over, not artifacts.")
@click.option("--keep", type=click.IntRange(min=1), metavar="N", help="Of runs, leave the N newest.")
@click.argument("words", nargs=-1, metavar="[runtime.outputs=FOLDER]")
@with_flags
@click.pass_context
def clean(
    context: click.Context, /, age: str | None, yes: bool, dry_run: bool, runs: bool, keep: int | None,
    words: tuple[str, ...], **flags: bool,
) -> None:  # fmt: skip
    """Remove artifacts that no run and no cell of a table needs, after asking; with --runs, folders of runs that are over."""

    def action(on: set[str]) -> None:
        outputs = outputs_of("clean", words)
        if runs:
            clean_runs(outputs, seconds(age), keep or 0, yes, dry_run, on)
        elif keep is not None:
            raise ConfigError(f"--keep {keep} says how many runs stay; write dmq clean --runs --keep {keep}.")
        else:
            _clean(outputs, seconds(age), yes, dry_run, on)

    run(context, flags, action)


def seconds(age: str | None) -> float:
    """Parse an age such as "7d" to seconds; 0 for None. Raises ConfigError."""
    match = re.fullmatch(r"(\d+)([mhdw])", age or "0m")
    if match is None:
        raise ConfigError(f"--older-than {age} is no age; write a whole number and m, h, d or w, e.g. 7d.")
    return float(match[1]) * _SECONDS[match[2]]


def _clean(outputs: Path, age: float, yes: bool, dry_run: bool, flags: set[str]) -> None:
    candidates, kept_paths = list(unneeded(outputs, age)), [str(path) for path in foreign(outputs)]
    result, summary = _result(candidates, kept_paths)
    notes = "".join(f"\nLeft alone, as dmq did not make it: {path}" for path in kept_paths)
    if not candidates or dry_run:
        show(
            result,
            _table(candidates) + (f"Unneeded: {summary}." if candidates else "Nothing to remove.") + notes,
            flags,
        )
        return
    if not yes and not confirmed(_table(candidates), summary, "clean"):
        show(result, "Nothing was removed." + notes, flags)
        return
    # List them again: while the user thought about the answer, a run may have started that needs some of them.
    offered = {(candidate.stage, candidate.key, candidate.leftover) for candidate in candidates}
    removed = [
        candidate
        for candidate in unneeded(outputs, age)
        if (candidate.stage, candidate.key, candidate.leftover) in offered
    ]
    _remove(ArtifactStore(outputs / "artifacts"), removed)
    result, summary = _result(removed, kept_paths)
    show({**result, "removed": True}, f"Removed {summary}." + notes, flags)


def _remove(store: ArtifactStore, removed: Sequence[Unneeded]) -> None:
    """Remove items: all are renamed first, which is quick, so that no run finds only a part of them."""
    by_stage: dict[str, dict[str, None]] = {}
    for item in removed:
        by_stage.setdefault(item.stage, {})[item.key] = None
    for stage, keys in by_stage.items():
        store.discard(stage, keys)
    for stage, keys in by_stage.items():
        store.sweep(stage, keys)


def _result(items: Sequence[Unneeded], kept_paths: Sequence[str]) -> tuple[dict[str, Any], str]:
    total = sum(item.bytes for item in items)
    result = {"artifacts": [vars(item) for item in items], "bytes": total, "removed": False, "left": list(kept_paths)}
    return result, f"{len(items)} artifacts and leftovers, {bytes_of(total)}"


def _table(items: Sequence[Unneeded]) -> str:
    """Write a line for each stage: number and size."""
    counts: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for item in items:
        name = f"{item.stage} (leftover)" if item.leftover else item.stage
        counts[name] += 1
        sizes[name] += item.bytes
    rows = [[name, f"{counts[name]} artifacts", bytes_of(sizes[name])] for name in sorted(counts)]
    return aligned(rows) + "\n" if rows else ""


def unneeded(outputs: Path, age: float = 0.0) -> Iterator[Unneeded]:
    """Yield what can be removed: not needed by any run or cell, not being computed, older than `age` seconds.

    Only artifacts that dmq made: of a known stage, named by a key, with the manifest of that key, and never behind a link. Files of
    a killed run are not needed. Raises ArtifactError where the needs of a run under way cannot be computed.
    """
    store, before = ArtifactStore(outputs / "artifacts"), time.time() - age
    needed = set(inventory.needed(outputs)) | _under_way(outputs)
    for stage in (*inventory.STAGES, *inventory.SHARDS):
        if any(place.is_symlink() for place in (store.root, store.root / stage)):
            continue
        for key in store.keys(stage):
            folder = store.root / stage / key
            free = (stage, key) not in needed and _is_artifact(folder) and not store.busy(stage, key)
            if free and folder.stat().st_mtime <= before:
                yield Unneeded(stage, key, inventory.size(folder), leftover=False)
        for key, folders in store.leftovers(stage).items():
            if (stage, key) not in needed and max(folder_left.stat().st_mtime for folder_left in folders) <= before:
                yield Unneeded(stage, key, sum(map(inventory.size, folders)), leftover=True)


def foreign(outputs: Path) -> Iterator[Path]:
    """Yield entries of the artifacts' folder that are no artifacts or links, which dmq does not remove."""
    root = outputs / "artifacts"
    if root.is_symlink():
        yield root
        return
    for stage in _visible(root):
        stages = (*inventory.STAGES, *inventory.SHARDS)
        if stage.is_symlink() or stage.name not in (*stages, *inventory.TRAINED) or not stage.is_dir():
            yield stage
        elif stage.name in stages:
            yield from (entry for entry in _visible(stage) if not _is_artifact(entry))


def _visible(folder: Path) -> list[Path]:
    """List all entries except those that start with a dot, sorted; [] for a folder that does not exist."""
    return sorted(path for path in folder.iterdir() if path.name[0] != ".") if folder.is_dir() else []


def _is_artifact(folder: Path) -> bool:
    """Whether a folder is named by a key, is not a link, and has the manifest of that stage and key."""
    if folder.is_symlink() or not _KEY.fullmatch(folder.name) or not folder.is_dir():
        return False
    try:
        return is_manifest_of(read_json(folder / "manifest.json"), folder.parent.name, folder.name)
    except ArtifactCorruptError:
        return False


def _under_way(outputs: Path) -> set[tuple[str, str]]:
    """Find the artifacts that the runs under way will need, by their configurations."""
    artifacts: set[tuple[str, str]] = set()
    for folder in filter(is_alive, inventory.run_folders(outputs)):
        try:
            config = read_json(folder / "config.json")
            if config["stage"] == "train":
                artifacts |= _made_since(outputs, (folder / "config.json").stat().st_mtime)
                continue
            from dmq_cli.stages.verbs import needs

            artifacts |= needs(config)
        except (KeyError, TypeError, AttributeError, ValueError, OSError, DmqError) as error:
            raise ArtifactError(
                f"The run {folder} is under way, but what it needs cannot be told ({error!r}), so nothing was removed; wait"
                " until it is over, then run the same command again."
            ) from error
    return artifacts


def _made_since(outputs: Path, moment: float) -> set[tuple[str, str]]:
    """Find the artifacts made since a training began, which may need them: its configuration does not say."""
    store = ArtifactStore(outputs / "artifacts")
    return {
        artifact
        for artifact in inventory.stored(store)
        if (store.root / artifact[0] / artifact[1]).stat().st_mtime >= moment
    }
