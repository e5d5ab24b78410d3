"""`dmq benchmark`: measure how long a network call takes in several forms, and how much memory and disk each takes."""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dmq_cli import choices
from dmq_cli.deploy.bench.deployed import Deployed
from dmq_cli.deploy.bench.network import TimedNetwork
from dmq_cli.deploy.bench.process import Process
from dmq_cli.deploy.bench.subjects import Subject
from dmq_cli.deploy.bench.turns import by_turns
from dmq_cli.deploy.processor import instruction_set
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.models import identified, is_random
from dmq_cli.paths import choice_files
from dmq_cli.results.benchmark import BENCHMARK, SCHEMA, read_benchmark, summarise, write_benchmark
from dmq_cli.results.later import without_later
from dmq_cli.results.naming import bits_name
from dmq_cli.stages import build
from dmq_cli.stages.costing import shaped
from dmq_cli.stages.exported import as_exported
from dmq_cli.stages.forms import export_form
from dmq_cli.stages.graph import identity
from dmq_cli.stages.progress import Progress
from dmq_cli.store import create_run, digest, environment, hold_json, now
from dmq_cli.store.recorded import MANIFEST, read_object

_log = logging.getLogger("dmq")
_VERSION = 1  # of what is measured
_READ = (
    "model", "method", "bits", "budget", "calib", "transform", "scheme", "policy", "recon", "correct", "sampler", "calib_sampler",
    "cond", "layer_bits",
)  # fmt: skip
Variant = Callable[[Sequence[str]], Mapping[str, Any]]
"""Composes the configuration of the command with further words."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """The section `benchmark`. Raises ConfigError for values that cannot be."""

    subjects: list[str]
    batches: list[int]
    fitted: str
    sample_size: int | None
    rounds: int
    turn: float
    seconds: float

    def __post_init__(self) -> None:
        for key, value in (("subjects", self.subjects), ("batches", self.batches)):
            if not isinstance(value, list):
                raise ConfigError(f"benchmark.{key}={value} is no list; write benchmark.{key}=[{value}].")
        known = choices.names("subject")
        for name in self.subjects:
            if name not in known:
                raise ConfigError(f"There is no subject {name}.{nearest(str(name), known)}")
        if not self.subjects or len(set(self.subjects)) < len(self.subjects):
            raise ConfigError(
                f"benchmark.subjects={self.subjects} is not possible; name one or several, each once: {', '.join(known)}."
            )
        if self.fitted not in ("noise", "run"):
            raise ConfigError(f"benchmark.fitted={self.fitted} is not known; use noise or run.")
        numbers: dict[str, list[Any]] = {
            "batches": self.batches,
            "rounds": [self.rounds],
            "turn": [self.turn],
            "seconds": [self.seconds],
        }
        numbers["sample_size"] = [1 if self.sample_size is None else self.sample_size]
        for key, values in numbers.items():
            whole = (int, float) if key in ("turn", "seconds") else (int,)
            if not values or any(type(value) not in whole or value <= 0 for value in values):
                raise ConfigError(f"benchmark.{key}={getattr(self, key)} is not possible; give positive numbers.")

    def made(self) -> dict[str, Subject]:
        """Make the subjects, by name. Raises ConfigError where what one of them runs with is not installed."""
        files = choice_files("subject")
        subjects: dict[str, Subject] = {name: build.make(choices.read_choice(files[name])) for name in self.subjects}
        for subject in subjects.values():
            subject.check()
        return subjects


def benchmark(composed: Mapping[str, Any], command: str, variant: Variant, quiet: bool = False) -> dict[str, Any]:
    """Measure a configuration, composed and resolved, and return the record with the run's folder.

    Writes outputs/runs/benchmark/<time>-<key>/benchmark.json. A finished cell of a table is returned from outputs/tables without
    measuring. Raises ConfigError for settings that cannot be, and as exporting does.
    """
    settings = BenchmarkSettings(**composed["benchmark"])
    config = _checked(composed, settings)
    subjects, key = settings.made(), _key(config)
    if (cell := _cell(config, key)) is not None and _is_finished(cell, key):
        _log.info("%s is measured: %s", config["model"]["name"], cell)
        return {**read_benchmark(cell).content, "cell": str(cell)}
    run = create_run(Path(config["runtime"]["outputs"]) / "runs", "benchmark", key, config)
    with run:
        content = _measured(config, settings, subjects, variant, Progress(quiet))
        content |= {"overrides": config.get("overrides", []), "command": command}
        manifest = {"verb": "benchmark", "key": key, "command": command, "artifacts": {}, "environment": environment(), "finished": now()}  # fmt: skip
        for folder in (run.path, *([] if cell is None else [cell])):
            write_benchmark(folder, content, manifest)
    return {**content, "run": str(run.path), **({} if cell is None else {"cell": str(cell)})}


def _checked(composed: Mapping[str, Any], settings: BenchmarkSettings) -> dict[str, Any]:
    """The configuration with its model identified, checked as far as shapes tell."""
    as_exported(composed)  # refuses one
    if composed["runtime"]["device"] != "cpu":
        raise ConfigError(
            f"runtime.device={composed['runtime']['device']} was given, but dmq benchmark measures on the CPU; leave it out."
        )
    config, adapter = shaped({**composed, "model": dict(composed["model"])})
    config["model"] = identified(composed["model"])
    config["bits"] = {**config["bits"], "name": bits_name(config["bits"])}
    random = is_random(config["model"])
    if settings.sample_size is not None and not random:
        raise ConfigError(
            f"benchmark.sample_size={settings.sample_size} was given, but {config['model']['name']} was trained at"
            f" {adapter.sample_shape()[-1]}; leave it out, or add model.weights=random."
        )
    if settings.fitted == "run" and random:
        raise ConfigError("benchmark.fitted=run was given, but random weights have no run; leave it at noise.")
    return config


def _key(config: Mapping[str, Any]) -> str:
    """The key of a benchmark: of what is exported, and of how it is measured, on whatever machine."""
    network = {name: section for name in _READ if (section := config.get(name)) is not None}
    return digest([_VERSION, identity(without_later(network)), config["benchmark"]])


def _cell(config: Mapping[str, Any], key: str) -> Path | None:
    name = (config.get("table") or {}).get("name")
    if name is None:
        return None
    label = "-".join((config["model"]["name"], config["method"]["name"], config["bits"]["name"], key[:8]))
    return Path(config["runtime"]["outputs"]) / "tables" / str(name) / label


def _is_finished(cell: Path, key: str) -> bool:
    return hold_json(cell, BENCHMARK, MANIFEST) and read_object(cell / MANIFEST).get("key") == key


def _measured(
    config: Mapping[str, Any],
    settings: BenchmarkSettings,
    subjects: Mapping[str, Subject],
    variant: Variant,
    progress: Progress,
) -> dict[str, Any]:
    """Prepare all subjects, measure them, and make the record."""
    sampler, scheduler = build.sampler(config)
    threads = config["runtime"]["threads"] or torch.get_num_threads()
    outputs = Path(config["runtime"]["outputs"])
    outputs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=outputs, prefix=".benchmark-") as scratch:
        steps = tuple(scheduler.timesteps.tolist())
        network = TimedNetwork(config["model"], steps, Path(scratch).absolute(), threads, settings.sample_size)
        ready = {name: _ready(name, subject, network, variant, progress) for name, subject in subjects.items()}
        estimates = 1 if (config.get("cond") or {}).get("guidance") is None else 2
        measured = _by_turns(ready, network, settings, sampler.calls * estimates)
        shape = list(network.shape())
    return {
        "schema": SCHEMA,
        "model": config["model"]["name"],
        "weights": "random" if is_random(config["model"]) else "trained",
        "method": config["method"]["name"],
        "bits": config["bits"]["name"],
        "sample_shape": shape,
        "calls": sampler.calls,
        "estimates": estimates,
        "machine": {**_machine(), "threads": threads},
        "subjects": {name: {"simulated": ready[name].simulated, **measured[name]} for name in ready},
        "config": dict(config),
        "artifacts": {},
    }


def _ready(name: str, subject: Subject, network: TimedNetwork, variant: Variant, progress: Progress) -> Subject:
    """Write what a subject runs from."""
    _log.info("preparing %s", name)
    if not isinstance(subject, Deployed):
        subject.prepare(network)
        return subject
    words = list(subject.words)
    form = {**variant(words), "stage": "export", "format": subject.format}
    folder, correct = export_form(form, network, network.folder / name, progress)
    return subject.exported(folder.absolute(), correct)


def _by_turns(
    subjects: Mapping[str, Subject], network: TimedNetwork, settings: BenchmarkSettings, calls: int
) -> dict[str, dict[str, Any]]:
    """Measure all subjects at all batch sizes, each subject in its process. calls: that a batch of images takes."""
    with ExitStack() as stack:
        processes = {name: stack.enter_context(Process(subject, network)) for name, subject in subjects.items()}
        batches: dict[str, dict[str, Any]] = {name: {} for name in subjects}
        for batch in settings.batches:
            _log.info("measuring batches of %d", batch)
            turns = by_turns(processes, batch, rounds=settings.rounds, turn=settings.turn, seconds=settings.seconds)
            for name in subjects:
                batches[name][str(batch)] = summarise(turns[name], batch, calls)
        return {
            name: {"bytes": process.bytes, "peak_mib": round(process.close(), 1), "batches": batches[name]}
            for name, process in processes.items()
        }


def _machine() -> dict[str, Any]:
    """What the latency depends on besides the software."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "cpu": names[0] if names else platform.processor(),
        "cpu_count": os.cpu_count(),
        "instruction_set": instruction_set(),
        "load_average": load,
    }
