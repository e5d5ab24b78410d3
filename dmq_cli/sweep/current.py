"""The command that the sweeper, an object made by Hydra, runs now, and the jobs that it returns."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from dmq_cli.sweep.jobs import Job, TableRows


@dataclass
class Command:
    """One command. run: runs a job with its composed configuration, in any process, and returns its result.

    rows: of a paper's table. recorded: finished jobs are recorded in outputs/sweeps and skipped next time, except by `dmq plan`.
    jobs: of the finished sweep; None before.
    """

    verb: str
    flags: set[str]
    run: Callable[[Any], dict[str, Any]]
    rows: TableRows
    recorded: bool
    jobs: list[Job] | None = None


CURRENT: ContextVar[Command] = ContextVar("dmq_command")
