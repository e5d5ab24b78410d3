"""Set up the log, and write the first line of a command before the seconds that imports take. Imports no torch."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

from dmq_cli.printing import SafeFormatter

_log = logging.getLogger("dmq")


class _ToStderr(logging.Handler):
    """Writes to what sys.stderr is at the time: the live table of a sweep replaces it while it is shown."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def set_up_logging(flags: set[str]) -> None:
    """Send the log to stderr; "verbose" adds debug lines, "quiet" leaves warnings only."""
    _log.setLevel(logging.DEBUG if "verbose" in flags else logging.INFO)
    _log.propagate = False
    if not any(isinstance(handler, _ToStderr) for handler in _log.handlers):
        handler = _ToStderr()
        handler.setFormatter(SafeFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
        handler.setLevel(logging.WARNING if "quiet" in flags else logging.NOTSET)  # a run's own log is not quiet
        _log.addHandler(handler)


def is_first() -> bool:
    """Whether this is the first of the processes that torchrun or srun started with the same command; see stages/ranks.py."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


def say_composing(verb: str, overrides: Sequence[str]) -> None:
    """Log that the jobs of a sweep are composed now."""
    _log.info("%s: composing the jobs ...", " ".join([verb, *overrides]))


def say_loading(title: str) -> None:
    """Log that the libraries of a run are imported now; nothing where they are already."""
    if "diffusers" not in sys.modules:
        _log.info("%s: loading PyTorch and diffusers ...", title)
