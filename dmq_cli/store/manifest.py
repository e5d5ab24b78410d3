"""Record where an artifact was made, for its manifest: versions, checkout, time and memory."""

from __future__ import annotations

import copy
import os
import platform
import resource
import subprocess
import sys
import time
from functools import cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import dmq_cli

_PACKAGES = ("torch", "diffusers", "torch-fidelity", "hydra-core", "safetensors", "numpy")
_CHECKOUT = Path(dmq_cli.__file__).resolve().parent.parent
_GIT_SECONDS = 20


def environment() -> dict[str, Any]:
    """Describe the software this process runs with, as plain values.

    Keys: dmq, python, platform (str), cpu_count (int or None), versions ({distribution: version or None};
    read from the installed metadata, nothing is imported) and git: {"commit": hex, "dirty": bool}, or None
    where the package does not lie in a git checkout of its own or git is missing, as it was when this process asked first:
    what it runs is what it has imported. Names no host and no user.
    """
    return {
        "dmq": dmq_cli.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "git": copy.copy(_git_state(_CHECKOUT)),
    }


class Stopwatch:
    """Measures a block: `with Stopwatch() as watch: ...`; both numbers can be read inside it and after it."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stop: float | None = None
        self._peak = 0.0

    def __enter__(self) -> Stopwatch:
        self._start, self._stop = time.perf_counter(), None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop = time.perf_counter()
        self._peak = _peak_mb()

    @property
    def seconds(self) -> float:
        """Seconds of wall time since the block began, up to its end."""
        return (time.perf_counter() if self._stop is None else self._stop) - self._start

    @property
    def peak_memory_mb(self) -> float:
        """The most memory (resident, MiB) this process has ever held, up to the block's end."""
        return _peak_mb() if self._stop is None else self._peak


def _peak_mb() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, KiB elsewhere


@cache
def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


@cache
def _git_state(checkout: Path) -> dict[str, str | bool] | None:
    top = _git(checkout, "rev-parse", "--show-toplevel")
    # Installed into a virtual environment, the package lies in somebody else's checkout: not its commit.
    if top is None or Path(top).resolve() != checkout:
        return None
    commit = _git(checkout, "rev-parse", "HEAD")
    status = _git(checkout, "status", "--porcelain")
    return None if commit is None or status is None else {"commit": commit, "dirty": bool(status)}


def _git(folder: Path, *arguments: str) -> str | None:
    # Inside a git hook, GIT_DIR and its like point at another repository.
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    command = ["git", "--no-optional-locks", "-C", str(folder), *arguments]
    try:
        process = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, env=clean)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() if process.returncode == 0 else None
