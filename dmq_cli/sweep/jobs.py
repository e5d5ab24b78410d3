"""Jobs of a sweep: from overrides with commas, or the rows of a paper's table, to a list named by configuration."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dmq_cli.overrides import as_hydra
from dmq_cli.sentences import told
from dmq_cli.store import digest

OUTSIDE = ("hydra", "runtime", "retry", "scale", "logger")
"""Sections that say how a job is run and not what it is."""

_UNSAID = (("layer_bits", None),)  # without it a job is what it was before there was such a key

TableRows = Callable[[dict[str, Any], str], list[list[str]]]
"""The overrides of every runnable row of a paper's table, from config.table and config.scale."""


@dataclass
class Job:
    """One configuration. overrides: its words; label: those that tell it from the other jobs; key: see `job_key`.

    status: waiting, running, done, failed or lost (its process ended without a record). ran: whether this command ran it.
    record: what is known about it: error, exit_code, run, cell, result, seconds, started; see dmq_cli.results.sweeps.
    """

    overrides: list[str]
    key: str
    config: Any = None
    label: str = ""
    status: str = "waiting"
    ran: bool = False
    record: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """What --json prints."""
        found = {"job": self.label, "key": self.key, "overrides": self.overrides, "status": self.status}
        return {**self.record, **found, "ran": self.ran}

    def fail(self, error: str, exit_code: int) -> None:
        """It failed, and why."""
        self.status, self.record = "failed", {**self.record, "error": error, "exit_code": exit_code}


def expand(context: Any, params: Mapping[str, Any], arguments: Sequence[str], rows: list[list[str]]) -> list[list[str]]:
    """The overrides of every job: for each row the product over all that is separated by commas.

    params: of the table; arguments: of the command line. A row's override of a key replaces the params', the command line's
    replaces both. A folder as model becomes what Hydra reads. Raises Hydra's errors for what cannot be parsed or is no list of choices.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=context.config_loader)
    swept = [f"{key}={value}" for key, value in params.items()]
    found: list[list[str]] = []
    for row in rows:
        found += BasicSweeper.split_arguments(parser.parse_overrides([*swept, *row, *arguments]), None)[0]
    return [as_hydra(words) for words in found]


def rows_of(table: Mapping[str, Any], scale: str, read: TableRows) -> list[list[str]]:
    """What each job of a table overrides before everything else: of a paper's table its runnable rows, else nothing, once.

    table: config.table; scale: paper or digits; read: who knows the rows. Raises ConfigError for rows that cannot be read.
    """
    if not table.get("paper"):
        return [[]]
    return read(dict(table), scale)


def compose(context: Any, master: Any, overrides: Sequence[list[str]]) -> list[Job]:
    """A job for every different configuration; one that cannot be composed has failed already."""
    jobs: dict[str, Job] = {}
    for words in overrides:
        try:
            config = context.config_loader.load_sweep_config(master, words)
            job = Job(words, job_key(config), config)
        except Exception as error:
            if (sentence := told(error)) is None:
                raise
            job = Job(words, digest(words))
            job.fail(*sentence)
        jobs.setdefault(job.key, job)
    _label(list(jobs.values()))
    return list(jobs.values())


def check(jobs: Iterable[Job]) -> None:
    """Fail the jobs that have a key nobody reads, or lack one."""
    from dmq_cli.overrides.check import check_config

    for job in jobs:
        try:
            check_config(job.config, job.overrides)
        except Exception as error:
            if (sentence := told(error)) is None:
                raise
            job.fail(*sentence)


def job_key(config: Any) -> str:
    """The name of a job: hash of its composed configuration, wherever its outputs lie, of the versions of its stages, and of the
    code in it that is not dmq's own. Raises ConfigError for code that is not there or cannot be imported.
    """
    from omegaconf import OmegaConf

    from dmq_cli.stages.nodes import versions
    from dmq_cli.stages.plugins import code_of

    own = copy.deepcopy(config)
    OmegaConf.set_readonly(own, False)
    OmegaConf.set_struct(own, False)
    own.pop("hydra", None)
    if "runtime" in own:
        own.runtime.outputs = "outputs"  # paths of models begin with it
    plain: Any = OmegaConf.to_container(own, resolve=True)
    what = {name: value for name, value in plain.items() if name not in OUTSIDE and (name, value) not in _UNSAID}
    code = code_of(what, what)
    return digest([what, versions(plain), *([code] if code else [])])


def _label(jobs: Sequence[Job]) -> None:
    """Name jobs by the words that not all of them have."""
    common = set.intersection(*(set(job.overrides) for job in jobs)) if len(jobs) > 1 else set()
    for job in jobs:
        own = [word for word in job.overrides if word not in common and not word.startswith("stage=")]
        job.label = " ".join(own) or "the only job"
