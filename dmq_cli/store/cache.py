"""The artifacts: one folder per stage and key, whole or not there, computed by one process at a time.

    root/<stage>/<key>/          committed: the files and manifest.json, never changed afterwards
    root/<stage>/.work-<key>/    being computed, or left by a kill and gone on with by the next claim
    root/<stage>/.lock-<key>     locked (flock) while somebody computes; the lock vanishes with its process

Lock files are never deleted: a process that waits on a deleted one would no longer exclude one that opens it
anew.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from dmq_cli.errors import ArtifactError
from dmq_cli.store.files import disk_errors, fsync, write_json
from dmq_cli.store.integrity import MANIFEST, check_files, record_files

_log = logging.getLogger(__name__)


class Claim:
    """The right to compute one artifact, held inside `with store.claim(stage, key)`.

    work: the folder to write into; it may hold what an earlier, killed attempt left. Exists only if `done` is
    None. done: the committed folder, if it was there already or since `commit`; else None.
    """

    def __init__(self, folder: Path, done: Path | None) -> None:
        self.work = folder.with_name(f".work-{folder.name}")
        self.done = done
        self._folder = folder
        if done is None:
            self.work.mkdir(exist_ok=True)

    def commit(self, manifest: Mapping[str, object]) -> Path:
        """Turn the work folder into the artifact, in one step, and return its path.

        Scratch (names that start with "." or "tmp-" or end with ".tmp", at any depth) is removed first; the
        list of the other files goes into the manifest under "files". Raises ArtifactError if the artifact is
        there already, NumericsError if the manifest holds NaN, OSError (a DiskError outside the `with`).
        """
        if self.done is not None:
            raise ArtifactError(
                f"{self._folder} was to be committed, but it is there already: use it, or remove it before the claim."
            )
        _drop_scratch(self.work)
        write_json(self.work / MANIFEST, {**manifest, "files": record_files(self.work)})
        for folder in (*(path for path in self.work.rglob("*") if path.is_dir()), self.work):
            fsync(folder)
        os.rename(self.work, self._folder)
        fsync(self._folder.parent)
        self.done = self._folder
        return self._folder


class ArtifactStore:
    """The artifacts below one folder, `root` (usually outputs/artifacts; created when first written to)."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    def find(self, stage: str, key: str) -> Path | None:
        """The committed folder, or None where there is none.

        Checks that every file is there with its size, and the sha256 of artifacts below 64 MB.
        Raises ArtifactCorruptError, as `verify` does.
        """
        folder = self._folder(stage, key)
        if not folder.is_dir():
            return None
        check_files(folder, stage)
        return folder

    def verify(self, stage: str, key: str) -> Path:
        """Check the sha256 of every file, whatever the size, and return the folder.

        Raises ArtifactCorruptError naming a file that is missing, truncated or altered, ArtifactError if
        there is no such artifact.
        """
        folder = self._folder(stage, key)
        if not folder.is_dir():
            raise ArtifactError(f"{folder} was to be verified, but there is no such artifact: run what makes it first.")
        check_files(folder, stage, full=True)
        return folder

    @contextmanager
    def claim(self, stage: str, key: str) -> Iterator[Claim]:
        """Hold the only right to compute an artifact, after waiting for a process that has it.

        Leaving without `commit`, or by an exception, keeps the work folder. Not reentrant: claiming a key
        twice in one thread waits for ever. Raises DiskError for a full or unwritable disk inside the block,
        ArtifactCorruptError as `find` does.
        """
        folder = self._folder(stage, key)
        with disk_errors(folder.parent, f"Computing {stage} {key[:8]}"):
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _opened(folder.with_name(f".lock-{key}")) as lock:
                if not _try_lock(lock):
                    _log.info("waiting for another process that computes %s %s", stage, key[:8])
                    fcntl.flock(lock, fcntl.LOCK_EX)
                yield Claim(folder, self.find(stage, key))

    def remove(self, stage: str, key: str) -> None:
        """Forget an artifact, and what an unfinished attempt left unless somebody is working on it now.

        In one step: a kill leaves the whole artifact or none. Nothing happens if there is none. Raises
        DiskError.
        """
        folder = self._folder(stage, key)
        if not folder.parent.is_dir():
            return
        with disk_errors(folder.parent, f"Removing {stage} {key[:8]}"):
            _discard(folder)
            with _opened(folder.with_name(f".lock-{key}")) as lock:
                if _try_lock(lock):
                    _discard(folder.with_name(f".work-{key}"))
            for trash in folder.parent.glob(f".trash-{key}-*"):
                shutil.rmtree(trash, ignore_errors=True)

    def keys(self, stage: str) -> list[str]:
        """The keys of a stage's committed artifacts, sorted; empty for a stage that never ran."""
        folder = self.root / stage
        if not folder.is_dir():
            return []
        return sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")

    def leftovers(self, stage: str) -> dict[str, list[Path]]:
        """By key, the folders that killed attempts and removals left; not those that somebody is working on now."""
        found: dict[str, list[Path]] = {}
        for path in sorted((self.root / stage).glob(".*")):
            kind, _, name = path.name[1:].partition("-")
            if kind in ("work", "trash") and path.is_dir():
                found.setdefault(name.rpartition("-")[0] if kind == "trash" else name, []).append(path)
        return {key: paths for key, paths in found.items() if not self.busy(stage, key)}

    def busy(self, stage: str, key: str) -> bool:
        """Whether a process is computing an artifact now."""
        lock = self._folder(stage, key).with_name(f".lock-{key}")
        if not lock.exists():
            return False
        with _opened(lock) as descriptor:
            return not _try_lock(descriptor)

    def _folder(self, stage: str, key: str) -> Path:
        return self.root / stage / key


@contextmanager
def _opened(lock: Path) -> Iterator[int]:
    """Open a lock file; on leaving, give up the lock, if it was taken."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        # Closing alone would leave the lock with a child that was forked meanwhile.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _discard(folder: Path) -> None:
    """Move a folder out of sight in one step; the caller deletes it."""
    key = folder.name.removeprefix(".work-")
    with suppress(FileNotFoundError):
        os.rename(folder, folder.with_name(f".trash-{key}-{secrets.token_hex(4)}"))


def _drop_scratch(folder: Path) -> None:
    for path in list(folder.iterdir()):
        is_folder = path.is_dir() and not path.is_symlink()
        if path.name.startswith((".", "tmp-")) or path.name.endswith(".tmp"):
            shutil.rmtree(path) if is_folder else path.unlink()
        elif is_folder:
            _drop_scratch(path)
