"""Run a job in its own process, and leave a record whatever happens, except a kill."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dmq_cli.report import headline
from dmq_cli.results.sweeps import Records
from dmq_cli.sentences import describe_error
from dmq_cli.sweep.jobs import job_key

_log = logging.getLogger("dmq")


@dataclass(frozen=True)
class Work:
    """The function that launchers call with a job's configuration, in this process or another; it returns the record.

    run: runs a job. records: where its record is written; None for verbs that write none.
    """

    run: Callable[[Any], dict[str, Any]]
    records: Records | None

    def __call__(self, config: Any) -> dict[str, Any]:
        """Run a job. Never raises for a failed one: Hydra's launchers would give up the others."""
        before, started = time.monotonic(), datetime.now().astimezone()
        try:
            key = job_key(config)
        except Exception as error:  # code that existed when the sweep began
            return {"key": "", **_failed(error)}
        record: dict[str, Any] = {"key": key, "overrides": _overrides(), "status": "done", "error": None}
        try:
            if self.records is not None:
                self.records.start(key)
            record |= {"exit_code": 0, **self._summarise(self.run(config))}
        except Exception as error:
            record |= _failed(error)
        record |= {"seconds": round(time.monotonic() - before, 1), "started": started.isoformat(timespec="seconds")}
        return self._keep(key, record)

    def _keep(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """Write the record and return it; where it cannot be written, the job counts as failed."""
        try:
            if self.records is not None:
                self.records.write(key, record)
        except Exception as error:
            return record if record["status"] == "failed" else record | _failed(error)
        return record

    def _summarise(self, result: Mapping[str, Any]) -> dict[str, Any]:
        if self.records is None:
            return {"found": result}
        places = {name: self.records.below(result.get(name)) for name in ("run", "cell")}
        return {**places, "result": headline(result)}


def _failed(error: Exception) -> dict[str, Any]:
    sentence, code = describe_error(error) or _bug(error)
    return {"status": "failed", "error": sentence, "exit_code": code, "run": None, "cell": None}


def _bug(error: Exception) -> tuple[str, int]:
    """Log an unexpected error with its traceback, and return its sentence and exit code; the other jobs go on."""
    _log.error("a job stopped at an unexpected error", exc_info=error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}", 1


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return [word for word in HydraConfig.get().overrides.task if not word.startswith("retry=")]
