"""Run a sweep: make its jobs, skip the finished ones, launch the others, and read how they ended."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmq_cli.errors import DmqError
from dmq_cli.paths import resolve
from dmq_cli.results.sweeps import Records
from dmq_cli.sentences import describe_error
from dmq_cli.store import digest, read_json
from dmq_cli.sweep.current import CURRENT, Command
from dmq_cli.sweep.jobs import OUTSIDE, Job, check, compose, expand, job_key, rows_of
from dmq_cli.sweep.show import Display

_log = logging.getLogger("dmq")


def sweep(context: Any, config: Any, params: Mapping[str, Any], arguments: Sequence[str]) -> None:
    """Run the unfinished jobs of the current command's sweep, and set all jobs on the command.

    context, config: of Hydra, composed without the swept overrides; params, arguments: see `expand`.
    Raises ConfigError and Hydra's errors that concern all jobs; a job's own error is in its record.
    """
    from omegaconf import OmegaConf

    from dmq_cli.overrides.check import check_config
    from dmq_cli.stages.how import check_choices

    command = CURRENT.get()
    check_config(config, arguments, OUTSIDE)  # the rest, and each job, only where jobs are to run
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
        # Finished jobs were checked when they ran; the classes that the check reads take seconds to import.
        check_config(config, arguments)
        check(job for job in jobs if job.status == "waiting")
    todo = [job for job in jobs if job.status == "waiting"]
    for job in todo if command.recorded else ():
        records.forget(job.key)
    with Display(jobs, records, command.flags) as display:
        if todo:
            returned = _launch(context, config, todo, command, records)
            display.stop()  # from here on only this thread sets the status of jobs
            _conclude(todo, returned, records if command.recorded else None)


def _take_up(jobs: Sequence[Job], records: Records, retry: str | None) -> None:
    """Read the records of jobs that finished, or failed and are not to be retried."""
    models: dict[str, str | None] = {}
    for job in jobs:
        if job.status == "failed":  # could not be composed
            continue
        record = records.read(job.key)
        if record is not None:
            finished = record.get("status") == "done" and _stands(records.proof(record), job, models)
            if finished or (record.get("status") == "failed" and retry != "failed"):
                job.status, job.record = str(record["status"]), record


def _stands(proof: Path | None, job: Job, models: dict[str, str | None]) -> bool:
    """Whether the result of a job still exists and was made with the weights of today. models: their sha256, cached."""
    if proof is None:
        return False
    content = read_json(proof)
    try:
        sha256 = content.get("config", content)["model"]["sha256"]
    except (KeyError, TypeError, AttributeError):  # valid JSON, but not what a run writes: the job runs again
        return False
    return _sha256(job.config.model, models) in (None, sha256)


def _sha256(model: Any, cache: dict[str, str | None]) -> str | None:
    """Hash the model's weights on this machine; None without weights, in which case a recorded result stays valid."""
    from omegaconf import OmegaConf

    from dmq_cli.models import folder_sha256

    plain: Any = OmegaConf.to_container(model, resolve=True)
    name = digest(plain)
    if name not in cache:
        try:
            cache[name] = (
                _of_random(plain) if plain.get("weights") == "random" else folder_sha256(resolve(plain["path"]))
            )
        except DmqError:
            cache[name] = None
    return cache[name]


def _of_random(model: dict[str, Any]) -> str:
    """Hash a model of random weights by what they are drawn from."""
    from dmq_cli.models import identified  # diffusers takes seconds to import

    return str(identified(model)["sha256"])


def _launch(
    context: Any, config: Any, todo: Sequence[Job], command: Command, records: Records
) -> dict[str, dict[str, Any]]:
    """Hand the jobs to Hydra's launcher, and return their records by key; where the launcher failed, only "" with the reason."""
    from hydra.core.plugins import Plugins

    from dmq_cli.sweep.work import Work

    work = Work(command.run, records if command.recorded else None)
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=work, config=config)
    for job in todo:
        job.ran = True
    try:
        returned = [
            job_return.return_value
            for job_return in launcher.launch([job.overrides for job in todo], initial_job_idx=0)
        ]
    except Exception as error:
        _log.debug("the launcher gave up", exc_info=error)
        return {"": {"error": _reason(error)}}
    return {record["key"]: record for record in returned}


def _reason(error: Exception) -> str:
    """Write an error of a launcher for use in parentheses."""
    sentence = describe_error(error)
    return sentence[0].rstrip(".") if sentence else f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(": ")


def _conclude(todo: Sequence[Job], returned: Mapping[str, dict[str, Any]], records: Records | None) -> None:
    """Set the status of every job by its record, else by the record it returned; a job that has neither is lost."""
    reason = returned.get("", {}).get("error", "it was not started")
    for job in todo:
        record = (records.read(job.key) if records else None) or returned.get(job.key)
        job.status = "lost" if record is None else str(record["status"])
        lost = f"Its process, or one beside it, ended without a result ({reason}); run the same command again."
        job.record = {"error": lost, "exit_code": 1} if record is None else record
