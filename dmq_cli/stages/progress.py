"""Show progress: a live bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

_log = logging.getLogger("dmq")
_LINE_EVERY = 15.0  # seconds between two lines of one stage where there is no terminal


class Progress:
    """Shows the progress of stages. forced: the artifacts that `force` has already removed in this run."""

    def __init__(self, quiet: bool = False) -> None:
        self.forced: set[tuple[str, str]] = set()
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._stage, self._last = "", 0.0

    @contextlib.contextmanager
    def stage(self, name: str, key: str) -> Iterator[None]:
        """Inside, updates belong to this stage; its time in seconds is logged at the end."""
        start, self._stage, self._last = time.monotonic(), name, time.monotonic()
        _log.info("%s %s ...", name, key[:8])
        with self._display(name):
            yield
        _log.info("%s %s done in %.1f s", name, key[:8], time.monotonic() - start)

    def update(self, label: str, done: int, total: int, loss: float | None = None) -> None:
        """Show that `done` of `total` are done, e.g. update("block 3/23 conv_in", 120, 1000, 0.02)."""
        shown = label if loss is None else f"{label} loss {loss:.4g}"
        if self._bars is not None and self._task is not None:
            self._bars.update(self._task, description=f"{self._stage} {shown}", completed=done, total=total)
        elif time.monotonic() - self._last > _LINE_EVERY:
            self._last = time.monotonic()
            _log.info("%s %s %d/%d", self._stage, shown, done, total)

    @contextlib.contextmanager
    def _display(self, name: str) -> Iterator[None]:
        if not self.live:
            yield
            return
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Bars(*columns, console=Console(stderr=True), transient=True) as self._bars:
            self._task = self._bars.add_task(name, total=None)
            try:
                yield
            finally:
                self._bars = self._task = None
