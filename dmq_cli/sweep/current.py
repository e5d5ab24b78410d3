"""What the command line tells the sweeper, which Hydra makes, and gets back from it."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dmq_cli.sweep.jobs import Job, TableRows


@dataclass
class Command:
    """One command. run: does a job with its composed configuration, in whatever process, and returns what was found.

    rows: of a paper's table. recorded: finished jobs are kept in outputs/sweeps and skipped next time; `dmq plan` always plans anew.
    jobs: what came of a sweep; None until there was one.
    """

    verb: str
    flags: set[str]
    run: Callable[[Any], dict[str, Any]]
    rows: TableRows
    recorded: bool
    jobs: list[Job] | None = None


CURRENT: ContextVar[Command] = ContextVar("dmq_command")
