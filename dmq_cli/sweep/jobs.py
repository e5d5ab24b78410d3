"""Make the jobs of a sweep, named by their configurations, from overrides with commas or the rows of a paper's table."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmq_cli.overrides import as_hydra
from dmq_cli.overrides.bits import register_bits
from dmq_cli.results.later import without_later
from dmq_cli.sentences import describe_error
from dmq_cli.store import digest

OUTSIDE = ("hydra", "runtime", "store", "retry", "scale", "logger")
"""Sections that say how a job is run, and change none of its numbers."""

TableRows = Callable[[dict[str, Any], str], list[list[str]]]
"""The overrides of every runnable row of a paper's table, from config.table and config.scale."""


@dataclass
class Job:
    """One configuration. overrides: its words; label: those that distinguish it from other jobs; key: see `job_key`.

    status: waiting, running, done, failed or lost (its process ended without a record). ran: whether this command ran it.
    record: error, exit_code, run, cell, result, seconds, started; see dmq_cli.results.sweeps.
    """

    overrides: list[str]
    key: str
    config: Any = None
    label: str = ""
    status: str = "waiting"
    ran: bool = False
    record: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Describe the job as --json prints it."""
        summary = {"job": self.label, "key": self.key, "overrides": self.overrides, "status": self.status}
        return {**self.record, **summary, "ran": self.ran}

    def fail(self, error: str, exit_code: int) -> None:
        """Mark the job as failed, with the sentence and the exit code."""
        self.status, self.record = "failed", {**self.record, "error": error, "exit_code": exit_code}


def expand(context: Any, params: Mapping[str, Any], arguments: Sequence[str], rows: list[list[str]]) -> list[list[str]]:
    """List the overrides of every job: for each row the product over all lists separated by commas.

    params: of the table; arguments: of the command line. A row's override of a key replaces the params', the command line's
    replaces both, but for words that chose the row (`narrowed`). A folder as model becomes what Hydra reads. Raises Hydra's errors for what
    cannot be parsed or is no list of choices.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=context.config_loader)
    swept = [f"{key}={value}" for key, value in params.items()]
    expanded: list[list[str]] = []
    for row in narrowed(rows, arguments):
        words = [*swept, *row, *(word for word in arguments if not _agrees(word, row))]
        expanded += BasicSweeper.split_arguments(parser.parse_overrides(words), None)[0]
    return [as_hydra(words) for words in expanded]


def narrowed(rows: list[list[str]], arguments: Iterable[str]) -> list[list[str]]:
    """Choose the rows that have what the command line says of a key, for every key for which there are any."""
    for word in arguments:
        rows = [row for row in rows if _agrees(word, row)] or rows
    return rows


def _agrees(word: str, row: Sequence[str]) -> bool:
    """Whether a row has the value that a word gives its key, or one of several."""
    key, _, values = word.partition("=")
    return any(f"{key}={value}" in row for value in (values, *values.split(",")))


def rows_of(table: Mapping[str, Any], scale: str, read: TableRows) -> list[list[str]]:
    """List the first overrides of each job: a paper's table has its runnable rows, everything else one empty row.

    table: config.table; scale: paper or digits; read: reads the rows. Raises ConfigError for rows that cannot be read.
    """
    if not table.get("paper"):
        return [[]]
    return read(dict(table), scale)


def compose(context: Any, master: Any, overrides: Sequence[list[str]]) -> list[Job]:
    """Make a job for every different configuration; one that cannot be composed is marked as failed."""
    jobs: dict[str, Job] = {}
    for words in overrides:
        try:
            register_bits(words)
            config = context.config_loader.load_sweep_config(master, words)
            job = Job(words, job_key(config), config)
        except Exception as error:
            if (sentence := describe_error(error)) is None:
                raise
            job = Job(words, digest(words))
            job.fail(*sentence)
        jobs.setdefault(job.key, job)
    _label(list(jobs.values()))
    return list(jobs.values())


def check(jobs: Iterable[Job]) -> None:
    """Mark jobs as failed that have a key nothing reads, or miss one."""
    from dmq_cli.overrides.check import check_config

    for job in jobs:
        try:
            check_config(job.config, job.overrides)
        except Exception as error:
            if (sentence := describe_error(error)) is None:
                raise
            job.fail(*sentence)


def job_key(config: Any) -> str:
    """Name a job: hash of its composed configuration without runtime settings, of the versions of its stages, and of foreign
    code in it. Raises ConfigError for code that does not exist or cannot be imported.
    """
    from omegaconf import OmegaConf

    from dmq_cli.stages.nodes import versions
    from dmq_cli.stages.plugins import code_of

    job_config = copy.deepcopy(config)
    OmegaConf.set_readonly(job_config, False)
    OmegaConf.set_struct(job_config, False)
    job_config.pop("hydra", None)
    resolved: Any = OmegaConf.to_container(job_config, resolve=True)
    if "runtime" in job_config:
        job_config.runtime.outputs = "outputs"  # paths of models begin with it
    plain: Any = OmegaConf.to_container(job_config, resolve=True)
    what = without_later({name: value for name, value in plain.items() if name not in OUTSIDE}, top=True)
    code = code_of(resolved, what)
    return digest([what, versions(plain), *([code] if code else [])])


def _label(jobs: Sequence[Job]) -> None:
    """Label jobs with the words that not all of them have."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        words = [word for word in job.overrides if word not in common and not word.startswith("stage=")]
        job.label = " ".join(words) or "the only job"
