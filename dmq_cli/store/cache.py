"""The artifacts: one folder per stage and key, complete or absent, computed by one process at a time.

    root/<stage>/<key>/          committed: the files and manifest.json, never changed afterwards
    root/<stage>/.work-<key>/    being computed, or left by a kill and continued by the next claim, see workfolder.py
    root/<stage>/.lock-<key>     locked (flock) while a process computes; the lock vanishes with its process
    root/<stage>/.lease-<key>/   or the owner files of a lease, which holds across machines, see lease.py

A work folder with a complete manifest is a commit that a kill cut short; the next claim finishes it.
Lock files are never deleted: a process that waits on a deleted one would not exclude one that opens a new file of that
name.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dmq_cli.errors import ArtifactCorruptError, ArtifactError
from dmq_cli.store import lease, locking
from dmq_cli.store.files import disk_errors, fsync, write_json
from dmq_cli.store.integrity import MANIFEST, check_files, committed, record_files
from dmq_cli.store.workfolder import discard, drop_scratch, key_of, take_over, work_folder

_log = logging.getLogger("dmq")


class Claim:
    """The right to compute one artifact, held inside `with store.claim(stage, key)`.

    work: the folder to write into; it may hold files of an earlier, killed attempt. Exists only if `done` is None. done: the
    committed folder, if it existed already or since `commit`; else None.
    """

    def __init__(self, folder: Path, done: Path | None, hold: locking.Hold) -> None:
        self.work = work_folder(folder, hold.token)
        self.done = done
        self._folder, self._hold = folder, hold
        if self.done is None:
            self.work.mkdir(exist_ok=True)
            self._made = self.work.stat()
            if (self.work / MANIFEST).is_file():
                self._finish()

    def commit(self, manifest: Mapping[str, object]) -> Path:
        """Turn the work folder into the artifact, in one step, and return its path.

        The manifest gets the stage, the key and, under "files", the list of all files but scratch (names that start
        with "." or "tmp-" or end with ".tmp", at any depth). Scratch is removed only when the manifest is written: a kill
        before that loses nothing that the next attempt needs, one after it leaves a commit to finish.
        Raises ArtifactError if the artifact is there already or another process has taken over, NumericsError if the manifest
        holds NaN, OSError (a DiskError outside the `with`).
        """
        if self.done is not None:
            raise ArtifactError(
                f"{self._folder} was to be committed, but it is there already: use it, or remove it before the claim."
            )
        self._hold.check()
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
        drop_scratch(self.work)
        for folder in (*(path for path in self.work.rglob("*") if path.is_dir()), self.work):
            fsync(folder)
        self._check_own()
        self._rename()
        fsync(self._folder.parent)
        committed(self._folder, self._folder.parent.name, self._folder.name)
        self.done = self._folder
        return self._folder

    def _check_own(self) -> None:
        """Raise ArtifactError unless the work folder is the one of the claim: who takes over renames that one."""
        self._hold.check()
        if not os.path.samestat(self._made, self.work.stat()):
            raise self._lost()

    def _rename(self) -> None:
        try:
            os.rename(self.work, self._folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise self._lost() from error

    def _lost(self) -> ArtifactError:
        return ArtifactError(
            f"{self._folder} was to be committed, but another process took over its work folder or committed it meanwhile: run the"
            " same command again, it uses what is there."
        )


class ArtifactStore:
    """The artifacts below one folder, `root` (usually outputs/artifacts; created when first written to)."""

    def __init__(self, root: Path, lock: str = "auto", silence: float = lease.SILENCE) -> None:
        """lock: auto, flock or lease, see locking.kind_of; silence: seconds without a sign of life that end a lease."""
        self.root = Path(root).absolute()
        self._kind, self._silence = locking.kind_of(lock, self.root), silence

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
        ArtifactCorruptError as `find` does, and ArtifactError in place of any error of a process that was silent for so long that
        another has taken over.
        """
        folder = self._folder(stage, key)
        with disk_errors(folder.parent, f"Computing {stage} {key[:8]}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            hold = self._wait_for(stage, key) if wait else locking.take(self._kind, self._lock(stage, key))
            if hold is None:
                raise BlockingIOError(f"{stage} {key} is being computed")
            try:
                take_over(folder, hold)
                try:
                    claim = Claim(folder, self.find(stage, key), hold)
                except FileNotFoundError as error:
                    if wait:
                        raise
                    raise BlockingIOError(f"{stage} {key} is being removed, its lock as well") from error
                yield claim
            except Exception as error:
                _check_still(hold, error)
                raise
            finally:
                hold.release()

    def _wait_for(self, stage: str, key: str) -> locking.Hold:
        def say(owner: str) -> None:
            _log.info("waiting for another process that computes %s %s%s", stage, key[:8], owner)

        hold = locking.wait(self._kind, self._lock(stage, key), say, self._silence)
        if hold.earlier and not (last := hold.earlier[-1]).given_back:
            _log.info("%s was silent: this process goes on with %s %s", last.describe(), stage, key[:8])
        return hold

    def remove(self, stage: str, key: str) -> None:
        """Remove an artifact, and the files of an unfinished attempt unless a process is working on it now.

        In one step: a kill leaves the whole artifact or none. Nothing happens if there is none. Raises
        DiskError, and ArtifactError where a link leads elsewhere: nothing is removed through links.
        """
        self.discard(stage, [key])
        self.sweep(stage, [key])

    def discard(self, stage: str, keys: Collection[str]) -> None:
        """The first half of `remove`, of many: rename each out of the way, in one step. Raises as `remove` does."""
        works = self._hidden(stage, "work", keys)
        for key in keys:
            for place in (self.root / stage, self._folder(stage, key), *works[key]):
                if place.is_symlink():
                    raise ArtifactError(
                        f"{place} was to be removed, but it is a link, and nothing is removed through links: remove it yourself."
                    )
        for key in keys if (self.root / stage).is_dir() else ():
            with disk_errors(self.root / stage, f"Removing {stage} {key[:8]}"):
                discard(self._folder(stage, key), key)
                with locking.kept_free(self._kind, self._lock(stage, key)) as is_free:
                    for work in works[key] if is_free else ():
                        discard(work, key)

    def sweep(self, stage: str, keys: Collection[str]) -> None:
        """The second half of `remove`: delete what was renamed."""
        for folders in self._hidden(stage, "trash", keys).values():
            for trash in folders:
                shutil.rmtree(trash, ignore_errors=True)

    def attempts(self, stage: str, key: str) -> list[Path]:
        """The folders that an artifact is being computed in, or that killed attempts left: with leases each owner has its own."""
        return self._hidden(stage, "work", [key])[key]

    def _hidden(self, stage: str, kind: str, keys: Collection[str]) -> dict[str, list[Path]]:
        """List by key the folders .<kind>-<key>... of a stage, in one scan."""
        by_key: dict[str, list[Path]] = {key: [] for key in keys}
        for path in (self.root / stage).glob(f".{kind}-*"):
            if (folders := by_key.get(path.name.split("-")[1])) is not None:
                folders.append(path)
        return by_key

    def forget(self, stage: str, keys: Collection[str]) -> None:
        """Remove artifacts together with their locks: only those that whoever claims them still would not compute."""
        self.discard(stage, keys)
        self.sweep(stage, keys)
        for path in (self.root / stage).glob(".*"):
            if path.name[-32:] in keys:
                path.unlink(missing_ok=True) if path.is_file() else shutil.rmtree(path, ignore_errors=True)

    def keys(self, stage: str) -> list[str]:
        """The keys of a stage's committed artifacts, sorted; empty for a stage that never ran."""
        folder = self.root / stage
        if not folder.is_dir():
            return []
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name[0] != "." and entry.is_dir())

    def newest(self, stage: str, count: int) -> list[str]:
        """The keys of the `count` artifacts of a stage that were committed last, the newest first."""
        times = {}
        for key in self.keys(stage):
            with suppress(FileNotFoundError):  # removed meanwhile
                times[key] = self._folder(stage, key).stat().st_mtime_ns
        return sorted(times, key=lambda key: -times[key])[:count]

    def leftovers(self, stage: str) -> dict[str, list[Path]]:
        """List by key the folders that killed attempts and removals left, except those a process is working on now."""
        by_key: dict[str, list[Path]] = {}
        for path in sorted((self.root / stage).glob(".*")):
            key = key_of(path.name)
            if key is not None and path.is_dir() and not path.is_symlink():
                by_key.setdefault(key, []).append(path)
        return {key: paths for key, paths in by_key.items() if not self.busy(stage, key)}

    def busy(self, stage: str, key: str) -> bool:
        """Whether a process is computing an artifact now, see locking.is_held. Writes nothing."""
        return locking.is_held(self._lock(stage, key))

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def _lock(self, stage: str, key: str) -> Path:
        return self.root / stage / f".lock-{key}"


def _check_still(hold: locking.Hold, error: Exception) -> None:
    """Raise ArtifactError from an error that came of having lost the right to write."""
    try:
        hold.check()
    except ArtifactError as lost:
        raise lost from error
    except OSError:  # the first error says more
        return
