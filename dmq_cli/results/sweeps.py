"""outputs/sweeps/<sweep>/<job>.json: the record of a job, written by its own process when it has ended.

    {overrides, status: done | failed, error, exit_code, run, cell, result, seconds, started}

run, cell: folders, relative to outputs where they are inside it. A job that was killed leaves no record and runs again.
`.<job>.running` has the time since which a job runs; the next sweep ignores one that a kill left behind.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.store import hold_json, read_json, write_json


class Records:
    """The records of one sweep. outputs: the folder that runs and tables lie in; name: of the sweep."""

    def __init__(self, outputs: Path, name: str) -> None:
        self.outputs = outputs.absolute()
        self.folder = self.outputs / "sweeps" / name

    def read(self, key: str) -> dict[str, Any] | None:
        """Read the record of a job; None where there is none that can be read."""
        file = self._file(key)
        try:
            return dict(read_json(file)) if file.is_file() else None
        except (ArtifactCorruptError, TypeError, ValueError):
            return None

    def write(self, key: str, record: dict[str, Any]) -> None:
        """Write a record. Raises OSError."""
        write_json(self._file(key), record)
        self._marker(key).unlink(missing_ok=True)

    def start(self, key: str) -> None:
        """Mark a job as running from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._marker(key).touch()

    def forget(self, key: str) -> None:
        """Remove the record and the mark of a job."""
        for file in (self._file(key), self._marker(key)):
            file.unlink(missing_ok=True)

    def running(self, key: str) -> float | None:
        """Seconds since a job began, or None."""
        try:
            return max(0.0, time.time() - self._marker(key).stat().st_mtime)
        except OSError:
            return None

    def below(self, path: str | None) -> str | None:
        """Make a path relative to outputs, if it lies there, as records have it."""
        if path is None:
            return None
        whole = Path(path).absolute()
        return str(whole.relative_to(self.outputs)) if whole.is_relative_to(self.outputs) else str(whole)

    def proof(self, record: dict[str, Any]) -> Path | None:
        """Find the file that records a finished job's configuration, in its cell or its run; None where that is gone or broken."""
        if record.get("cell"):
            folder = self.outputs / record["cell"]
            files = [folder / name for name in ("metrics.json", "benchmark.json")]
            return next((file for file in files if hold_json(folder, file.name, "manifest.json")), None)
        if not record.get("run"):
            return None
        folder = self.outputs / record["run"]
        measured = ("metrics.json",) if folder.parent.name == "evaluate" else ()  # other verbs measure nothing
        return folder / "config.json" if hold_json(folder, "config.json", "manifest.json", *measured) else None

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _marker(self, key: str) -> Path:
        return self.folder / f".{key}.running"
