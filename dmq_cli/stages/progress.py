"""Show progress: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import logging
import sys
import time
from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

from dmq_cli.printing import duration
from dmq_cli.stages.pace import Pace

_log = logging.getLogger("dmq")
_LINE_EVERY = 15.0  # seconds between two lines of one stage where there is no terminal

Artifact = tuple[str, str]
"""A stage and a key."""


class Progress:
    """Shows the progress of stages. forced: the artifacts that `force` has already removed in this run."""

    def __init__(self, quiet: bool = False) -> None:
        self.forced: set[Artifact] = set()
        self.quiet = quiet
        self.live = sys.stderr.isatty() and not quiet
        self._expected: dict[Artifact, float | None] = {}
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._stage, self._last, self._pace = "", 0.0, Pace()

    def expect(self, seconds: Mapping[Artifact, float | None]) -> None:
        """Set the artifacts that the job has yet to compute: the seconds each took in earlier runs, None where unknown."""
        self._expected = dict(seconds)

    @contextlib.contextmanager
    def stage(self, name: str, key: str) -> Iterator[None]:
        """Inside, updates belong to this stage; its time in seconds is logged at the end. A StageObserver."""
        start, self._stage, self._last, self._pace = time.monotonic(), name, time.monotonic(), Pace()
        self._expected.pop((name, key), None)
        _log.info("%s %s ...", name, key[:8])
        with self._display(name):
            yield
        _log.info("%s %s done in %.1f s", name, key[:8], time.monotonic() - start)

    def update(self, label: str, done: int, total: int, loss: float | None = None, share: float | None = None) -> None:
        """Show that `done` of `total` are done, e.g. update("weights: unit 3 of 23 conv_in", 120, 1000, 0.02).

        share: of the stage's work that is done, in [0, 1], where `total` is not all of it.
        """
        now = time.monotonic()
        self._pace.see(label, done, done / max(total, 1) if share is None else share, now)
        shown = label if loss is None else f"{label} loss {loss:.4g}"
        if self._bars is not None and self._task is not None:
            text = f"{self._stage} {shown}"
            self._bars.update(self._task, description=text, completed=done, total=total, left=", ".join(self._times()))
        elif now - self._last > _LINE_EVERY:
            self._last = now
            _log.info("%s %s %s", self._stage, shown, ", ".join([f"{done}/{total}", *self._times()]))

    def _times(self) -> list[str]:
        """The steps per second, the time left of the stage and, if other artifacts follow, of the job; [] before there is a pace."""
        pace, waiting = self._pace, list(self._expected.values())
        if pace.per_second is None or pace.seconds_left is None:
            return []
        times = [f"{pace.per_second:.3g}/s", f"{duration(pace.seconds_left)} left"]
        if waiting:
            job_left = pace.seconds_left + sum(seconds for seconds in waiting if seconds is not None)
            times.append(f"{'at least ' if None in waiting else ''}{duration(job_left)} of the job")
        return times

    @contextlib.contextmanager
    def _display(self, name: str) -> Iterator[None]:
        if not self.live:
            yield
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[left]}"),
        )
        with Bars(*columns, console=Console(stderr=True), transient=True) as self._bars:
            self._task = self._bars.add_task(name, total=None, left="")
            try:
                yield
            finally:
                self._bars = self._task = None
