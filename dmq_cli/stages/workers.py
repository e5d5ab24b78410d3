"""Processes on this machine that help one run to make shards, each on a device and with threads of its own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from dmq_cli import paths
from dmq_cli.errors import ConfigError, DmqError
from dmq_cli.sentences import describe_error

_PATIENCE = 15.0  # seconds that a process has to end; clusters give about 30
_log = logging.getLogger("dmq")
Target = tuple[str, dict[str, Any]]
"""A stage and its configuration."""


def devices(runtime: Mapping[str, Any]) -> list[str]:
    """The devices of the processes, in turn: those of runtime.devices, with `auto` all of CUDA, else runtime.device."""
    chosen = runtime.get("devices")
    if chosen == "auto":
        return [f"cuda:{index}" for index in range(torch.cuda.device_count())] or ["cpu"]
    return [str(runtime["device"])] if chosen is None else [str(device) for device in chosen]


def count(runtime: Mapping[str, Any]) -> int:
    """The number of processes: runtime.workers, else one for each device."""
    number: int | None = runtime.get("workers")
    return len(devices(runtime)) if number is None else number


def processes(runtime: Mapping[str, Any]) -> int:
    """The number of processes of the whole launch: those of this command, of every one that torchrun or srun started."""
    return count(runtime) * int(runtime.get("ranks", 1))


def threads(runtime: Mapping[str, Any]) -> int:
    """Threads of torch in each process: runtime.threads, else an equal share of torch's own choice."""
    return int(runtime["threads"] or max(1, torch.get_num_threads() // count(runtime)))


@contextlib.contextmanager
def sharing_threads(runtime: Mapping[str, Any]) -> Iterator[None]:
    """Inside, torch has the threads of one process; on another device than the CPU they stay."""
    before = torch.get_num_threads()
    if torch.device(runtime["device"]).type == "cpu":
        torch.set_num_threads(threads(runtime))
    try:
        yield
    finally:
        torch.set_num_threads(before)


class Helpers:
    """The processes besides this one, started when there is something for them to do."""

    def __init__(self, config: Mapping[str, Any], targets: Sequence[Target]) -> None:
        self._runtime, self._targets = config["runtime"], list(targets)
        self._processes: list[tuple[BaseProcess, Connection]] = []

    def start(self, shards: int) -> None:
        """Start the processes, where they do not work already: with this one at most one for each of so many shards."""
        wanted = count(self._runtime)
        if wanted > shards:
            _log.info("%d workers were asked for, but there are %d shards to make", wanted, shards)
        while len(self._processes) < min(wanted, shards) - 1:
            self._processes.append(self._start(len(self._processes) + 1))

    def check(self) -> None:
        """Raise the error of a process that ended in one; a killed one is left out, as the others do its work."""
        for process, connection in list(self._processes):
            if process.is_alive():
                continue
            self._processes.remove((process, connection))
            if connection.poll():
                with contextlib.suppress(EOFError):
                    raise DmqError(f"A worker stopped: {connection.recv()}")
            if process.exitcode:
                _log.warning(
                    "worker %s ended (exit code %s); the others go on with its work", process.name, process.exitcode
                )

    def stop(self) -> None:
        """End all processes, each when it has written the batch that it works on, if that does not take long."""
        for process, _ in self._processes:
            process.terminate()
        until = time.monotonic() + _PATIENCE
        for process, _ in self._processes:
            process.join(max(0.0, until - time.monotonic()))
            process.kill()
            process.join()
        self._processes.clear()

    def _start(self, index: int) -> tuple[BaseProcess, Connection]:
        chosen = devices(self._runtime)
        runtime = {
            "device": chosen[index % len(chosen)],
            "threads": threads(self._runtime),
            "workers": 1,
            "devices": None,
        }
        runtime["ranks"] = processes(self._runtime)  # it is one of several
        targets = [(name, {**config, "runtime": {**config["runtime"], **runtime}}) for name, config in self._targets]
        context = multiprocessing.get_context("spawn")
        receiving, sending = context.Pipe(duplex=False)
        process = context.Process(
            target=_help, args=(targets, paths.own_folder(), os.getpid(), sending), name=str(index), daemon=True
        )
        process.start()
        sending.close()
        return process, receiving


def _help(targets: Sequence[Target], folder: Path | None, parent: int, sending: Connection) -> None:
    """Help until all is made or the process that asked for it is gone, and send the sentence of an error to it."""
    from dmq_cli.stages.plugins import import_plugins
    from dmq_cli.stages.stopping import at_signals
    from dmq_cli.stages.verbs import take_part

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of the terminal: the process that started this one ends it
    try:
        torch.set_num_threads(int(targets[0][1]["runtime"]["threads"]))
        with at_signals(), paths.with_own(folder):
            import_plugins()
            take_part(targets, lambda: os.getppid() == parent)
    except KeyboardInterrupt:
        pass
    except Exception as error:
        sentence = describe_error(error)
        if sentence is None:
            raise
        sending.send(sentence[0])


def check(runtime: Mapping[str, Any]) -> None:
    """Raise ConfigError for an impossible number of processes, or for devices that are no list."""
    number, chosen = runtime.get("workers"), runtime.get("devices")
    if number is not None and (type(number) is not int or number < 1):
        raise ConfigError(f"runtime.workers={number} is not possible; give a whole number, at least 1, or null.")
    if chosen not in (None, "auto") and not (isinstance(chosen, list) and chosen):
        raise ConfigError(
            f"runtime.devices={chosen} is no list of devices; write runtime.devices=[cuda:0,cuda:1], or auto for all."
        )
