"""dmq clean --runs: removes folders of runs that are over; what they were made from stays where it is."""

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
from dmq_cli.store.rundir import LOCK, RUN_FILES

_HOLDS_A_MODEL = "train"  # a verb whose folders other runs may read


def clean_runs(outputs: Path, age: float, keep: int, yes: bool, dry_run: bool, flags: set[str]) -> None:
    """Show the runs that are over, older than `age` seconds and none of the `keep` newest, and remove them after asking."""
    found = list(over(outputs, age, keep))
    left = "".join(f"\nLeft alone, as it is not what dmq leaves of a run: {path}" for path in foreign(outputs))
    said = _said(found)
    if not found or dry_run:
        show(_result(found), (_listed(found) + f"Over: {said}." if found else "No run to remove.") + left, flags)
        return
    if not yes and not confirmed(_listed(found), said, "clean --runs"):
        show(_result(found), "Nothing was removed." + left, flags)
        return
    removed = [folder for folder in found if _is_over(folder)]  # looked at again after the question
    result, said = _result(removed), _said(removed)
    for folder in removed:
        with disk_errors(folder, "Removing a run"):
            shutil.rmtree(folder)
    show({**result, "removed": True}, f"Removed {said}. What they alone needed goes with: dmq clean." + left, flags)


def over(outputs: Path, age: float = 0.0, keep: int = 0) -> Iterator[Path]:
    """Folders of runs, oldest first, whose process is gone: done, failed or killed. Of training none, whose folders hold models.

    age: seconds since they ended, at least; keep: how many of the newest, finished or not, stay.
    """
    before = time.time() - age
    ordered = sorted(_runs(outputs), key=lambda folder: folder.name)
    for folder in ordered[: len(ordered) - keep]:
        if _is_over(folder) and (folder / "status.json").stat().st_mtime <= before:
            yield folder


def foreign(outputs: Path) -> Iterator[Path]:
    """Folders of runs with something in them that dmq did not put there."""
    return (folder for folder in _runs(outputs) if not is_alive(folder) and not _is_own(folder))


def _runs(outputs: Path) -> list[Path]:
    """Those of runs, none behind a link."""
    return [
        folder
        for folder in inventory.run_folders(outputs)
        if folder.parent.name != _HOLDS_A_MODEL
        and not any(place.is_symlink() for place in (folder, folder.parent, folder.parent.parent))
    ]


def _is_over(folder: Path) -> bool:
    return _is_own(folder) and not is_alive(folder)


def _is_own(folder: Path) -> bool:
    """Whether it has the files of a run and nothing else: artifacts are links, those of an unpacked run are its own."""
    links = list((folder / "artifacts").glob("*"))
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    known = {*RUN_FILES, LOCK, "artifacts"}
    return {"config.json", "status.json"} <= names <= known and all(link.is_symlink() for link in links)


def _said(found: Sequence[Path]) -> str:
    return f"{len(found)} runs, {bytes_of(sum(map(inventory.size, found)))}"


def _result(found: Sequence[Path]) -> dict[str, Any]:
    return {"runs": [str(one) for one in found], "bytes": sum(map(inventory.size, found)), "removed": False}


def _listed(found: Sequence[Path]) -> str:
    """A line for each run: when, what, how it ended, where."""
    rows = [inventory.run_row(folder) for folder in found]
    columns = ("time", "verb", "model", "method", "bits", "state", "run")
    return aligned([[str(row[column]) for column in columns] for row in rows]) + "\n"
