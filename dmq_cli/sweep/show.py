"""Show a sweep: a live table in a terminal, a line for each job elsewhere, nothing with -q and --json; and its summary."""

from __future__ import annotations

import logging
import statistics
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from dmq_cli.errors import SweepError
from dmq_cli.printing import duration, printable
from dmq_cli.results.sweeps import Records
from dmq_cli.sweep.jobs import Job

_log = logging.getLogger("dmq")
_WIDEST = 48  # characters of a result in the live table
_MOST_LABELS = 4  # of jobs that failed for the same reason
_EVERY = 0.5  # seconds between two reads of the records
_COLOURS = {"done": "green", "failed": "red", "lost": "red", "running": "yellow"}


class Display:
    """A context manager that shows the progress of jobs, by reading their records in a thread of its own."""

    def __init__(self, jobs: Sequence[Job], records: Records, flags: set[str]) -> None:
        self.jobs, self.records = jobs, records
        self.silent = bool(flags & {"quiet", "json"})
        self._printed: set[str] = set()
        self._begun: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.silent:
            return self
        if sys.stderr.isatty():
            console = Console(stderr=True)
            self._live = Live(self._table(console.height), console=console, auto_refresh=False)
            self._live.start()
        self._refresh()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.silent:
            return
        self._refresh()
        if self._live is not None:
            self._live.stop()
        if error is None:
            print(printable(summary(self.jobs)), flush=True)

    def stop(self) -> None:
        """Stop reading records; returns when the thread has ended."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def _announce(self, number: int, job: Job) -> None:
        """Log that a job begins, unless a live table shows it."""
        if self._live is None and job.status == "running" and job.key not in self._begun:
            self._begun.add(job.key)
            _log.info("%s", ", ".join([f"job {number} of {len(self.jobs)}: {job.label}", *left(self.jobs)]))

    def _watch(self) -> None:
        while not self._end.wait(_EVERY):
            for number, job in enumerate(self.jobs, 1):
                if job.status in ("waiting", "running"):
                    self._look(job)
                    self._announce(number, job)
            self._refresh()

    def _look(self, job: Job) -> None:
        record = self.records.read(job.key)
        if record is not None:
            job.record, job.status = record, str(record["status"])
        elif (seconds := self.records.running(job.key)) is not None:
            job.record, job.status = {"seconds": round(seconds, 1)}, "running"

    def _refresh(self) -> None:
        if self._live is not None:
            self._live.update(self._table(self._live.console.height), refresh=True)
            return
        for number, job in enumerate(self.jobs, 1):
            if job.status not in ("waiting", "running") and job.key not in self._printed:
                self._printed.add(job.key)
                print(printable(f"{number}/{len(self.jobs)} " + "  ".join(filter(None, cells(job)))), flush=True)

    def _table(self, height: int) -> Table:
        """Make a table of as many jobs as fit, around the first one that is not finished."""
        table = Table(*_columns(), title=", ".join([summary(self.jobs), *left(self.jobs)]), title_justify="left")
        fitting = max(3, height - 8)
        ended = [job.status not in ("waiting", "running") for job in self.jobs]
        first = ended.index(False) if False in ended else len(ended)
        start = max(0, min(first - fitting // 3, len(self.jobs) - fitting))
        for number, job in list(enumerate(self.jobs, 1))[start : start + fitting]:
            state, label, seconds, result, place = cells(job)
            text = result or place
            text = (
                text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
            )  # a row is a line; the last lines say it whole
            row = map(_line, (str(number), label, state, seconds, text))
            table.add_row(*row, style=_COLOURS.get(job.status))
        return table


def _columns() -> list[Column]:
    """Make the columns: short ones keep their width; in a narrow terminal jobs and results are cut."""
    short = {"": 2, "state": 7, "seconds": 7}
    return [
        Column(name, no_wrap=name in short, min_width=short.get(name))
        for name in ("", "job", "state", "seconds", "result")
    ]


def _line(text: str) -> Text:
    """One line, without markup: seeds=[0-9]."""
    return Text(text, no_wrap=True, overflow="ellipsis")


def cells(job: Job) -> tuple[str, str, str, str, str]:
    """Format state, label, seconds, result and place of a job."""
    record: dict[str, Any] = job.record
    before = {"done": "skipped", "failed": "failed before" if record.get("started") else "failed"}
    state = job.status if job.ran else before.get(job.status, job.status)
    seconds = f"{record['seconds']:.1f} s" if record.get("seconds") is not None and job.ran else ""
    place = record.get("cell") or record.get("run") or ""
    return state, job.label, seconds, record.get("result") or record.get("error") or "", place


def summary(jobs: Sequence[Job]) -> str:
    """Write "N done, M skipped, K failed", and the numbers of unfinished jobs."""
    counts = Counter("skipped" if job.status == "done" and not job.ran else job.status for job in jobs)
    unfinished = [f"{counts[name]} {name}" for name in ("lost", "running", "waiting") if counts[name]]
    return ", ".join([f"{counts[name]} {name}" for name in ("done", "skipped", "failed")] + unfinished)


def left(jobs: Sequence[Job]) -> list[str]:
    """Estimate how long the rest of a sweep takes: ["about 12 min left of the sweep"]; [] before its first job is done."""
    seconds_done = [float(job.record["seconds"]) for job in jobs if job.status == "done" and job.record.get("seconds")]
    running = [float(job.record.get("seconds", 0.0)) for job in jobs if job.status == "running"]
    waiting = sum(job.status == "waiting" for job in jobs)
    if not seconds_done or not (running or waiting):
        return []
    typical = statistics.median(seconds_done)
    work = waiting * typical + sum(max(0.0, typical - seconds) for seconds in running)
    return [f"about {duration(work / max(1, len(running)))} left of the sweep"]


def failure(jobs: Sequence[Job]) -> SweepError | None:
    """Make the error that a sweep ends with: every failed or lost job with its sentence; None if there is none."""
    wrong = [job for job in jobs if job.status != "done"]
    if not wrong:
        return None
    advice = "the others are kept; mend the cause and try again with retry=failed"
    lines = [f"{len(wrong)} of {len(jobs)} jobs failed; {advice}:"]
    lines += [f"{_listed(labels)}: {error}" for error, labels in _reasons(wrong).items()]
    return SweepError(lines[0] + " " + lines[1] if len(lines) == 2 else "\n  ".join(lines), as_json(jobs))


def _reasons(wrong: Sequence[Job]) -> dict[str, list[str]]:
    """Group the labels of failed jobs by the sentence they ended with."""
    reasons: dict[str, list[str]] = {}
    for job in wrong:
        reasons.setdefault(str(job.record.get("error", "it was not finished.")), []).append(job.label)
    return reasons


def _listed(labels: Sequence[str]) -> str:
    """Write the first few labels, and the number of the others."""
    more = len(labels) - _MOST_LABELS
    return ", ".join(labels[:_MOST_LABELS]) + (f" and {more} more" if more > 0 else "")


def as_json(jobs: Sequence[Job]) -> dict[str, Any]:
    """Describe a sweep as --json prints it."""
    return {"jobs": [job.as_json() for job in jobs]}
