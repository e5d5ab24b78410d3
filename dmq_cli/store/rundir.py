"""The folder of one run: its configuration, status, log, results, and links to the artifacts it used."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import weakref
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from types import TracebackType

from dmq_cli.errors import DmqError
from dmq_cli.store import locking
from dmq_cli.store.files import disk_errors, read_json, write_json

__all__ = ["LEASE", "LOCK", "RUN_FILES", "Run", "create_run", "is_alive", "read_json", "write_json"]

LOCK = ".lock"
LEASE = ".lease"
RUN_FILES = ("config.json", "manifest.json", "status.json", "metrics.json", "run.log", "samples.png", "report.html")
"""What dmq writes into the folder of a run, besides its lock and links to its artifacts."""
_log = logging.getLogger("dmq")


class Run:
    """A run folder: config.json, status.json, run.log, artifacts/<name> and whatever `write_json` puts there; `with` it, it ends with the block.

    path: the folder. log: the file to log to (created by whoever logs).
    status.json: {"status": "running" | "done" | "failed: ...", "started": ISO time, "finished": ISO time or
    null}; a run that was killed keeps "running", but nobody holds the lock of its folder (`is_alive`).
    """

    def __init__(self, path: Path, lock: str = "auto") -> None:
        """path: a new folder. lock: auto, flock or lease, see locking.kind_of."""
        self.path = path
        self.log = path / "run.log"
        self._started = now()
        hold = locking.wait(locking.kind_of(lock, path), path / LOCK, _log.debug)
        self._release = weakref.finalize(self, hold.release)
        self._write_status("running", None)

    def __enter__(self) -> Run:
        """The run; leaving the block finishes it, as failed after an error."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """See above."""
        if error is None:
            self.finish("done")
        else:
            self.finish(f"failed: {error if isinstance(error, DmqError) else type(error).__name__}")

    def link(self, name: str, target: Path) -> Path:
        """Make (or replace) artifacts/<name>, a relative link to `target`, and return it. Raises OSError."""
        link = self.path / "artifacts" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        # Real paths: "..", followed through a linked outputs folder, leads elsewhere.
        relative = os.path.relpath(target.resolve(), link.parent.resolve())
        scratch = link.with_name(f".{link.name}.{secrets.token_hex(4)}.tmp")
        scratch.symlink_to(relative)
        os.replace(scratch, link)
        return link

    def write_json(self, name: str, value: object) -> Path:
        """Write a plain value to <name> in the run folder, in one step, and return its path."""
        write_json(self.path / name, value)
        return self.path / name

    def finish(self, status: str) -> None:
        """Write how the run ended: "done", or "failed: " and the sentence.

        Raises OSError for "done" only: an error of the disk must not hide the error that made a run fail.
        """
        try:
            self._write_status(status, now())
        except OSError as error:
            if status == "done":
                raise
            _log.warning("the status of %s could not be written (%s)", self.path, error.strerror)
        finally:
            self._release()
            with suppress(OSError):
                (self.path / LOCK).unlink(missing_ok=True)  # nobody waits for this one
            shutil.rmtree(self.path / LEASE, ignore_errors=True)

    def _write_status(self, status: str, finished: str | None) -> None:
        self.write_json("status.json", {"status": status, "started": self._started, "finished": finished})


def is_alive(folder: Path) -> bool:
    """Whether the process of a run is still running."""
    return locking.is_held(folder / LOCK)


def create_run(root: Path, verb: str, key: str, config: dict[str, object], lock: str = "auto") -> Run:
    """Make root/<verb>/<YYYYmmdd-HHMMSS>-<first 8 of key>, "-2", "-3" ... after it where that is taken.

    config: plain values, written to config.json. lock: see Run. Raises DiskError for a full or unwritable disk.
    """
    with disk_errors(root, f"Starting a run of {verb}"):
        run = Run(_new_folder(Path(root) / verb, f"{datetime.now():%Y%m%d-%H%M%S}-{key[:8]}"), lock)
        run.write_json("config.json", config)
    return run


def _new_folder(parent: Path, name: str) -> Path:
    """Create the first free one of name, name-2, name-3 ...; mkdir decides, so no two processes share one."""
    parent.mkdir(parents=True, exist_ok=True)
    folder, count = parent / name, 1
    while True:
        try:
            folder.mkdir()
            return folder
        except FileExistsError:
            count += 1
            folder = parent / f"{name}-{count}"


def now() -> str:
    """The time with its offset from UTC, to the second, ISO 8601."""
    return datetime.now().astimezone().isoformat(timespec="seconds")
