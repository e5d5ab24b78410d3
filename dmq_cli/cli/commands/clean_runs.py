"""dmq clean --runs: remove folders of runs that are over; their artifacts stay."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dmq_cli.cli.commands.output import aligned, bytes_of, confirmed, show
from dmq_cli.results import inventory
from dmq_cli.store import is_alive
from dmq_cli.store.files import disk_errors
from dmq_cli.store.rundir import LEASE, LOCK, RUN_FILES

_HOLDS_A_MODEL = "train"  # a verb whose folders other runs may read


def clean_runs(outputs: Path, age: float, keep: int, yes: bool, dry_run: bool, flags: set[str]) -> None:
    """Show the runs that are over, older than `age` seconds and none of the `keep` newest, and remove them after asking."""
    candidates = list(over(outputs, age, keep))
    notes = "".join(f"\nLeft alone, as it is not what dmq leaves of a run: {path}" for path in foreign(outputs))
    summary = _summary(candidates)
    if not candidates or dry_run:
        text = _table(candidates) + f"Over: {summary}." if candidates else "No run to remove."
        show(_result(candidates), text + notes, flags)
        return
    if not yes and not confirmed(_table(candidates), summary, "clean --runs"):
        show(_result(candidates), "Nothing was removed." + notes, flags)
        return
    removed = [folder for folder in candidates if _is_over(folder)]  # looked at again after the question
    result, summary = _result(removed), _summary(removed)
    for folder in removed:
        with disk_errors(folder, "Removing a run"):
            shutil.rmtree(folder)
    show({**result, "removed": True}, f"Removed {summary}. What they alone needed goes with: dmq clean." + notes, flags)


def over(outputs: Path, age: float = 0.0, keep: int = 0) -> Iterator[Path]:
    """Yield the folders of runs, oldest first, whose process has ended: done, failed or killed. Not of training, which hold models.

    age: seconds since they ended, at least; keep: how many of the newest, finished or not, stay.
    """
    before = time.time() - age
    ordered = sorted(_runs(outputs), key=lambda folder: folder.name)
    for folder in ordered[: len(ordered) - keep]:
        if _is_over(folder) and (folder / "status.json").stat().st_mtime <= before:
            yield folder


def foreign(outputs: Path) -> Iterator[Path]:
    """Yield the folders of runs with something in them that dmq did not put there."""
    return (folder for folder in _runs(outputs) if not is_alive(folder) and not _has_only_run_files(folder))


def _runs(outputs: Path) -> list[Path]:
    """List the folders of runs, none behind a link."""
    return [
        folder
        for folder in inventory.run_folders(outputs)
        if folder.parent.name != _HOLDS_A_MODEL
        and not any(place.is_symlink() for place in (folder, folder.parent, folder.parent.parent))
    ]


def _is_over(folder: Path) -> bool:
    return _has_only_run_files(folder) and not is_alive(folder)


def _has_only_run_files(folder: Path) -> bool:
    """Whether it has the files of a run and nothing else: artifacts are links, but files of its own in an unpacked run."""
    links = list((folder / "artifacts").glob("*"))
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    allowed = {*RUN_FILES, LOCK, LEASE, "artifacts"}
    return {"config.json", "status.json"} <= names <= allowed and all(link.is_symlink() for link in links)


def _summary(folders: Sequence[Path]) -> str:
    return f"{len(folders)} runs, {bytes_of(sum(map(inventory.size, folders)))}"


def _result(folders: Sequence[Path]) -> dict[str, Any]:
    return {"runs": [str(folder) for folder in folders], "bytes": sum(map(inventory.size, folders)), "removed": False}


def _table(folders: Sequence[Path]) -> str:
    """Write a line for each run: when, what, how it ended, where."""
    rows = [inventory.run_row(folder) for folder in folders]
    columns = ("time", "verb", "model", "method", "bits", "state", "run")
    return aligned([[str(row[column]) for column in columns] for row in rows]) + "\n"
