"""What a job does in its own process: run, and leave a record whatever happens, except a kill."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from dmq_cli.report import headline
from dmq_cli.results.sweeps import Records
from dmq_cli.sentences import told
from dmq_cli.sweep.jobs import job_key

_log = logging.getLogger("dmq")


@dataclass(frozen=True)
class Work:
    """The function that launchers call with a job's configuration, in this process or another; it returns the record.

    run: what a job does. records: where its record goes; None for verbs that keep none.
    """

    run: Callable[[Any], dict[str, Any]]
    records: Records | None

    def __call__(self, config: Any) -> dict[str, Any]:
        """Never raises for a failed job: Hydra's launchers would give up the others."""
        before, started = time.monotonic(), datetime.now().astimezone()
        try:
            key = job_key(config)
        except Exception as error:  # code that was there when the sweep began
            return {"key": "", **_failed(error)}
        record: dict[str, Any] = {"key": key, "overrides": _overrides(), "status": "done", "error": None}
        try:
            if self.records is not None:
                self.records.start(key)
            record |= {"exit_code": 0, **self._found(self.run(config))}
        except Exception as error:
            record |= _failed(error)
        record |= {"seconds": round(time.monotonic() - before, 1), "started": started.isoformat(timespec="seconds")}
        return self._kept(key, record)

    def _kept(self, key: str, record: dict[str, Any]) -> dict[str, Any]:
        """The record, written where records are; what keeps it from being written fails a job that had not failed."""
        try:
            if self.records is not None:
                self.records.write(key, record)
        except Exception as error:
            return record if record["status"] == "failed" else record | _failed(error)
        return record

    def _found(self, found: Mapping[str, Any]) -> dict[str, Any]:
        if self.records is None:
            return {"found": found}
        places = {name: self.records.below(found.get(name)) for name in ("run", "cell")}
        return {**places, "result": headline(found)}


def _failed(error: Exception) -> dict[str, Any]:
    sentence, code = told(error) or _bug(error)
    return {"status": "failed", "error": sentence, "exit_code": code, "run": None, "cell": None}


def _bug(error: Exception) -> tuple[str, int]:
    """An error that is nobody's wrong input: the trace is for whoever mends it, the other jobs go on."""
    _log.error("a job stopped at an unexpected error", exc_info=error)
    first = (str(error).splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}", 1


def _overrides() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    return [word for word in HydraConfig.get().overrides.task if not word.startswith("retry=")]
