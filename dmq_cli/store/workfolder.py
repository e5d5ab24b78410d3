"""The folder that an artifact is computed in: gone on with after a kill, and never shared with an owner that was only stopped.

    .work-<key>            where flock excludes others: its owner is gone, or nobody else gets here
    .work-<key>-<token>    of one owner of a lease; the next one renames it to a name of its own

Whatever the former owner does by path then, it does not do in the folder of the new one.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from dmq_cli.store import locks
from dmq_cli.store.files import copy_file
from dmq_cli.store.integrity import is_scratch
from dmq_cli.store.locking import Hold

_LEFT = re.compile(r"\.(?:work-([0-9a-f]{32})(?:-[0-9a-f]+)?|trash-([0-9a-f]{32})-[0-9a-f]{8})")


def work_folder(folder: Path, token: str) -> Path:
    """The work folder of an artifact's folder for a holder of that token."""
    return folder.with_name(f".work-{folder.name}" + (f"-{token}" if token else ""))


def take_over(folder: Path, hold: Hold) -> Path:
    """Make what earlier attempts left this holder's own, and return its work folder, which exists if they left any."""
    work = work_folder(folder, hold.token)
    for left, is_gone in _left_before(folder, hold):
        if work.exists():
            discard(left, folder.name)
        else:
            with suppress(FileNotFoundError):  # its owner was not silent, but committed it just now
                os.rename(left, work)
                if not is_gone:
                    _part_from(work)
    hold.settle()
    return work


def discard(folder: Path, key: str) -> None:
    """Rename a folder of an artifact to a trash name in one step; the caller deletes it."""
    with suppress(FileNotFoundError):
        os.rename(folder, folder.with_name(f".trash-{key}-{secrets.token_hex(4)}"))


def drop_scratch(folder: Path) -> None:
    """Delete scratch at any depth."""
    for path in list(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        if is_scratch(path.name):
            shutil.rmtree(path) if is_folder else path.unlink()
        elif is_folder:
            drop_scratch(path)


def key_of(name: str) -> str | None:
    """The key of the artifact whose work folder or trash has this name; None for other names."""
    match = _LEFT.fullmatch(name)
    return None if match is None else match[1] or match[2]


def _left_before(folder: Path, hold: Hold) -> Iterator[tuple[Path, bool]]:
    """Yield work folders of earlier holders of leases, the last one first, and whether their process has left them."""
    if not hold.token:
        return
    for owner in reversed(hold.earlier):
        if (left := work_folder(folder, owner.token)).is_dir():
            yield left, owner.given_back
    if (left := work_folder(folder, "")).is_dir() and not locks.is_held(folder.with_name(f".lock-{folder.name}")):
        yield left, True


def _part_from(work: Path) -> None:
    """Leave to a silent owner the files that it may have open: half written ones, and those that are not written aside.

    Scratch of stages, tmp-..., is always written aside, and kept as it is.
    """
    for path in list(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if path.name.startswith(".") and path.name.endswith(".tmp"):
            path.unlink()
        elif path.is_file() and not is_scratch(name):
            copy_file(str(path), str(path))
