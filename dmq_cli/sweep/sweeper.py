"""The sweep itself: which jobs there are, which are finished, launching the rest, and what came of all."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmq_cli.errors import DmqError
from dmq_cli.paths import resolve
from dmq_cli.results.sweeps import Records
from dmq_cli.sentences import told
from dmq_cli.store import digest, read_json
from dmq_cli.sweep.current import CURRENT, Command
from dmq_cli.sweep.jobs import OUTSIDE, Job, check, compose, expand, job_key, rows_of
from dmq_cli.sweep.show import Display

_log = logging.getLogger("dmq")


def sweep(context: Any, config: Any, params: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Run what is not finished of the current command's sweep and leave all jobs with the command.

    context, config: of Hydra, composed without what is swept over; params, arguments: see `expand`.
    Raises ConfigError and Hydra's errors for what concerns all jobs; a job's own error is in its record.
    """
    from omegaconf import OmegaConf

    from dmq_cli.overrides.check import check_config
    from dmq_cli.stages.how import check_choices

    command = CURRENT.get()
    check_config(config, arguments, OUTSIDE)
    check_choices(config)
    table: Any = OmegaConf.to_container(config.table, resolve=True)
    jobs = compose(context, config, expand(context, params, arguments, rows_of(table, config.scale, command.rows)))
    name = table.get("name") or f"{command.verb}-{job_key(config)[:8]}"
    records = Records(Path(config.runtime.outputs), str(name))
    if command.recorded:
        _take_up(jobs, records, config.retry)
    command.jobs = jobs
    if waiting := sum(job.status == "waiting" for job in jobs):
        _log.info("%s: %d of %d jobs are to run; loading PyTorch and diffusers ...", name, waiting, len(jobs))
        # What a finished job is named by was checked when it ran; the classes that this asks take seconds to import.
        check_config(config, arguments)
        check(job for job in jobs if job.status == "waiting")
    todo = [job for job in jobs if job.status == "waiting"]
    for job in todo if command.recorded else ():
        records.forget(job.key)
    with Display(jobs, records, command.flags) as display:
        if todo:
            found = _launch(context, config, todo, command, records)
            display.stop()  # from here on only this thread says how jobs ended
            _conclude(todo, found, records if command.recorded else None)


def _take_up(jobs: Sequence[Job], records: Records, retry: str | None) -> None:
    """Take up the records of what is finished, or has failed and is not to be tried again."""
    models: dict[str, str | None] = {}
    for job in jobs:
        if job.status == "failed":  # could not be composed
            continue
        record = records.read(job.key)
        if record is not None:
            done = record.get("status") == "done" and _stands(records.made(record), job, models)
            if done or (record.get("status") == "failed" and retry != "failed"):
                job.status, job.record = str(record["status"]), record


def _stands(proof: Path | None, job: Job, models: dict[str, str | None]) -> bool:
    """Whether what a job made is there and was made with the weights that lie here now. models: their sha256 by path."""
    if proof is None:
        return False
    found = read_json(proof)
    try:
        sha256 = found.get("config", found)["model"]["sha256"]
    except (KeyError, TypeError, AttributeError):  # whole, but not what a run writes: it is made anew
        return False
    return _sha256(job.config.model, models) in (None, sha256)


def _sha256(model: Any, known: dict[str, str | None]) -> str | None:
    """Of the weights that lie here; None without weights: what was measured stays measured."""
    from omegaconf import OmegaConf

    from dmq_cli.models import folder_sha256

    plain: Any = OmegaConf.to_container(model, resolve=True)
    name = digest(plain)
    if name not in known:
        try:
            known[name] = (
                _of_random(plain) if plain.get("weights") == "random" else folder_sha256(resolve(plain["path"]))
            )
        except DmqError:
            known[name] = None
    return known[name]


def _of_random(model: dict[str, Any]) -> str:
    from dmq_cli.models import identified  # diffusers takes seconds to import

    return str(identified(model)["sha256"])


def _launch(
    context: Any, config: Any, todo: Sequence[Job], command: Command, records: Records
) -> dict[str, dict[str, Any]]:
    """Hand the jobs to Hydra's launcher; what jobs returned, by key: nothing where a process died, or "" and the reason."""
    from hydra.core.plugins import Plugins

    from dmq_cli.sweep.work import Work

    work = Work(command.run, records if command.recorded else None)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=work, config=config)
    for job in todo:
        job.ran = True
    try:
        returned = [one.return_value for one in launcher.launch([job.overrides for job in todo], initial_job_idx=0)]
    except Exception as error:
        _log.debug("the launcher gave up", exc_info=error)
        return {"": {"error": _reason(error)}}
    return {record["key"]: record for record in returned}


def _reason(error: Exception) -> str:
    """The sentence about an error of a launcher, as it goes into parentheses."""
    sentence = told(error)
    return sentence[0].rstrip(".") if sentence else f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")


def _conclude(todo: Sequence[Job], found: Mapping[str, dict[str, Any]], records: Records | None) -> None:
    """How every job ended: by its record, else by what it returned; a job that has neither is lost."""
    reason = found.get("", {}).get("error", "it was not started")
    for job in todo:
        record = (records.read(job.key) if records else None) or found.get(job.key)
        job.status = "lost" if record is None else str(record["status"])
        lost = f"Its process, or one beside it, ended without a result ({reason}); run the same command again."
        job.record = {"error": lost, "exit_code": 1} if record is None else record
