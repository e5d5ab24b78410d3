"""The artifacts: one folder per stage and key, complete or absent, computed by one process at a time.

    root/<stage>/<key>/          committed: the files and manifest.json, never changed afterwards
    root/<stage>/.work-<key>/    being computed, or left by a kill and continued by the next claim
    root/<stage>/.lock-<key>     locked (flock) while a process computes; the lock vanishes with its process

A work folder with a complete manifest is a commit that a kill cut short; the next claim finishes it.
Lock files are never deleted: a process that waits on a deleted one would not exclude one that opens a new file of that
name.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dmq_cli.errors import ArtifactCorruptError, ArtifactError
from dmq_cli.store.files import disk_errors, fsync, write_json
from dmq_cli.store.integrity import MANIFEST, check_files, committed, is_scratch, record_files
from dmq_cli.store.locks import is_held, opened, owner, sign, try_lock

_log = logging.getLogger("dmq")
_LEFT = re.compile(r"\.(?:work-([0-9a-f]{32})|trash-([0-9a-f]{32})-[0-9a-f]{8})")


class Claim:
    """The right to compute one artifact, held inside `with store.claim(stage, key)`.

    work: the folder to write into; it may hold files of an earlier, killed attempt. Exists only if `done` is None. done: the
    committed folder, if it existed already or since `commit`; else None.
    """

    def __init__(self, folder: Path, done: Path | None) -> None:
        self.work = folder.with_name(f".work-{folder.name}")
        self.done = done
        self._folder = folder
        if self.done is None and (self.work / MANIFEST).is_file():
            self._finish()
        if self.done is None:
            self.work.mkdir(exist_ok=True)

    def commit(self, manifest: Mapping[str, object]) -> Path:
        """Turn the work folder into the artifact, in one step, and return its path.

        The manifest gets the stage, the key and, under "files", the list of all files but scratch (names that start
        with "." or "tmp-" or end with ".tmp", at any depth). Scratch is removed only when the manifest is written: a kill
        before that loses nothing that the next attempt needs, one after it leaves a commit to finish.
        Raises ArtifactError if the artifact is there already, NumericsError if the manifest holds NaN, OSError (a
        DiskError outside the `with`).
        """
        if self.done is not None:
            raise ArtifactError(
                f"{self._folder} was to be committed, but it is there already: use it, or remove it before the claim."
            )
        whole = {"stage": self._folder.parent.name, "key": self._folder.name, **manifest}
        write_json(self.work / MANIFEST, {**whole, "files": record_files(self.work)})
        return self._move()

    def _finish(self) -> None:
        """Finish a commit that was cut short; a manifest that does not fit its files is removed."""
        try:
            check_files(self.work, self._folder.parent.name, self._folder.name, full=True, scratch=True)
        except ArtifactCorruptError:
            (self.work / MANIFEST).unlink()
        else:
            self._move()

    def _move(self) -> Path:
        _drop_scratch(self.work)
        for folder in (*(path for path in self.work.rglob("*") if path.is_dir()), self.work):
            fsync(folder)
        os.rename(self.work, self._folder)
        fsync(self._folder.parent)
        committed(self._folder, self._folder.parent.name, self._folder.name)
        self.done = self._folder
        return self._folder


class ArtifactStore:
    """The artifacts below one folder, `root` (usually outputs/artifacts; created when first written to)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def find(self, stage: str, key: str) -> Path | None:
        """Find the committed folder; None where there is none.

        Checks that it is of this stage and key, that exactly the listed files exist with their sizes, and the sha256 of artifacts
        below 64 MB; `verify` before computing from a larger one. Raises ArtifactCorruptError as `verify` does.
        """
        folder = self._folder(stage, key)
        if not folder.is_dir():
            return None
        check_files(folder, stage, key)
        return folder

    def verify(self, stage: str, key: str) -> Path:
        """Check the sha256 of every file, once in this process while it is not touched, and return the folder.

        Raises ArtifactCorruptError naming a file that is missing, truncated, altered or too many, ArtifactError if
        there is no such artifact.
        """
        folder = self._folder(stage, key)
        if not folder.is_dir():
            raise ArtifactError(f"{folder} was to be verified, but there is no such artifact: run what makes it first.")
        check_files(folder, stage, key, full=True)
        return folder

    @contextmanager
    def claim(self, stage: str, key: str, wait: bool = True) -> Iterator[Claim]:
        """Take the exclusive right to compute an artifact, waiting for a process that has it; BlockingIOError without `wait`.

        Leaving without `commit`, or by an exception, keeps the work folder. Not reentrant: claiming a key
        twice in one thread waits for ever. Raises DiskError for a full or unwritable disk inside the block,
        ArtifactCorruptError as `find` does.
        """
        folder = self._folder(stage, key)
        with disk_errors(folder.parent, f"Computing {stage} {key[:8]}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with opened(folder.with_name(f".lock-{key}")) as lock:
                if not try_lock(lock):
                    if not wait:
                        raise BlockingIOError(f"{stage} {key} is being computed")
                    _log.info("waiting for another process that computes %s %s%s", stage, key[:8], owner(lock))
                    fcntl.flock(lock, fcntl.LOCK_EX)
                sign(lock)
                yield Claim(folder, self.find(stage, key))

    def remove(self, stage: str, key: str) -> None:
        """Remove an artifact, and the files of an unfinished attempt unless a process is working on it now.

        In one step: a kill leaves the whole artifact or none. Nothing happens if there is none. Raises
        DiskError, and ArtifactError where a link leads elsewhere: nothing is removed through links.
        """
        self.discard(stage, key)
        self.sweep(stage, key)

    def discard(self, stage: str, key: str) -> None:
        """The first half of `remove`: rename it out of the way, in one step. Raises as `remove` does."""
        folder = self._folder(stage, key)
        for place in (folder.parent, folder, folder.with_name(f".work-{key}")):
            if place.is_symlink():
                raise ArtifactError(
                    f"{place} was to be removed, but it is a link, and nothing is removed through links: remove it yourself."
                )
        if not folder.parent.is_dir():
            return
        with disk_errors(folder.parent, f"Removing {stage} {key[:8]}"):
            _discard(folder)
            with opened(folder.with_name(f".lock-{key}")) as lock:
                if try_lock(lock):
                    _discard(folder.with_name(f".work-{key}"))

    def sweep(self, stage: str, key: str) -> None:
        """The second half of `remove`: delete what was renamed."""
        for trash in self._folder(stage, key).parent.glob(f".trash-{key}-*"):
            shutil.rmtree(trash, ignore_errors=True)

    def forget(self, stage: str, keys: Collection[str]) -> None:
        """Remove artifacts together with their locks: only those that whoever claims them still would not compute."""
        for key in keys:
            self.remove(stage, key)
        for path in (self.root / stage).glob(".*"):
            if path.name[-32:] in keys and path.is_file():
                path.unlink(missing_ok=True)

    def keys(self, stage: str) -> list[str]:
        """The keys of a stage's committed artifacts, sorted; empty for a stage that never ran."""
        folder = self.root / stage
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")

    def leftovers(self, stage: str) -> dict[str, list[Path]]:
        """List by key the folders that killed attempts and removals left, except those a process is working on now."""
        by_key: dict[str, list[Path]] = {}
        for path in sorted((self.root / stage).glob(".*")):
            name = _LEFT.fullmatch(path.name)
            if name is not None and path.is_dir() and not path.is_symlink():
                by_key.setdefault(name[1] or name[2], []).append(path)
        return {key: paths for key, paths in by_key.items() if not self.busy(stage, key)}

    def busy(self, stage: str, key: str) -> bool:
        """Whether a process is computing an artifact now. Writes nothing."""
        return is_held(self._folder(stage, key).with_name(f".lock-{key}"))

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key


def _discard(folder: Path) -> None:
    """Rename a folder to a trash name in one step; the caller deletes it."""
    key = folder.name.removeprefix(".work-")
    with suppress(FileNotFoundError):
        os.rename(folder, folder.with_name(f".trash-{key}-{secrets.token_hex(4)}"))


def _drop_scratch(folder: Path) -> None:
    for path in list(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        if is_scratch(path.name):
            shutil.rmtree(path) if is_folder else path.unlink()
        elif is_folder:
            _drop_scratch(path)
