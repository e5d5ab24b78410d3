"""outputs/sweeps/<sweep>/<job>.json: what came of a job, written by its own process when it has ended.

    {overrides, status: done | failed, error, exit_code, run, cell, result, seconds, started}

run, cell: folders, below outputs where they lie there. A job that was killed leaves none and runs again. `.<job>.running` says since
when a job runs; one that a kill left behind says nothing about the next sweep.
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
        """The record of a job, or None; one that cannot be read counts as none."""
        file = self._file(key)
        try:
            return dict(read_json(file)) if file.is_file() else None
        except (ArtifactCorruptError, TypeError, ValueError):
            return None

    def write(self, key: str, record: dict[str, Any]) -> None:
        """Keep a record. Raises OSError."""
        write_json(self._file(key), record)
        self._marker(key).unlink(missing_ok=True)

    def start(self, key: str) -> None:
        """Say that a job runs from now on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._marker(key).touch()

    def forget(self, key: str) -> None:
        """Remove what is known about a job."""
        for file in (self._file(key), self._marker(key)):
            file.unlink(missing_ok=True)

    def running(self, key: str) -> float | None:
        """Seconds since a job began, or None."""
        try:
            return max(0.0, time.time() - self._marker(key).stat().st_mtime)
        except OSError:
            return None

    def below(self, path: str | None) -> str | None:
        """A path as records keep it: from outputs on, if it lies there."""
        if path is None:
            return None
        whole = Path(path).absolute()
        return str(whole.relative_to(self.outputs)) if whole.is_relative_to(self.outputs) else str(whole)

    def made(self, record: dict[str, Any]) -> Path | None:
        """The file that names the weights of what a finished job made: of its cell, or of its run. None: that is gone or broken."""
        if record.get("cell"):
            folder = self.outputs / record["cell"]
            return folder / "metrics.json" if hold_json(folder, "metrics.json", "manifest.json") else None
        if not record.get("run"):
            return None
        folder = self.outputs / record["run"]
        measured = ("metrics.json",) if folder.parent.name == "evaluate" else ()  # other verbs measure nothing
        return folder / "config.json" if hold_json(folder, "config.json", "manifest.json", *measured) else None

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.json"

    def _marker(self, key: str) -> Path:
        return self.folder / f".{key}.running"
