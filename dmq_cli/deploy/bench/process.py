"""A process for each subject: its memory is its own, and nothing that another one imports or allocates slows it down."""

from __future__ import annotations

import multiprocessing
import re
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.deploy.bench.network import TimedNetwork
from dmq_cli.deploy.bench.subjects import Callee, Subject
from dmq_cli.errors import ConfigError, DmqError
from dmq_cli.models.configs import first_line
from dmq_cli.store import Stopwatch

_PATIENCE = 5  # seconds that a process has to end by itself
_STATUS = Path("/proc/self/status")


class Process:
    """A subject that is loaded and waits to be called. `bytes`: of what it runs from."""

    def __init__(self, subject: Subject, network: TimedNetwork) -> None:
        """Raises as the subject does when it is loaded."""
        self._connection, self._process = _start(_serve, subject, network)
        self.bytes: int = _answer(self._connection)

    def run(self, batch: int, calls: int) -> list[float]:
        """See Timed. Raises ConfigError where the process has ended, as for lack of memory."""
        self._connection.send((batch, calls))
        seconds: list[float] = _answer(self._connection)
        return seconds

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *error: object) -> None:
        self._connection.close()
        self._process.join(_PATIENCE)
        if self._process.is_alive():
            self._process.terminate()

    def close(self) -> float:
        """End the process. Returns the most memory that it held, in MiB."""
        self._connection.send(None)
        peak: float = _answer(self._connection)
        self._process.join()
        return peak


def _start(target: Callable[..., None], subject: Subject, network: TimedNetwork) -> tuple[Connection, Any]:
    context = multiprocessing.get_context("spawn")
    connection, far_end = context.Pipe()
    process = context.Process(target=target, args=(far_end, subject, network), daemon=True)
    process.start()
    far_end.close()  # so that the end of the process is seen here
    return connection, process


def _answer(connection: Connection) -> Any:
    try:
        answer = connection.recv()
    except EOFError as error:
        raise ConfigError(
            "The process of a subject ended before it answered, probably for lack of memory; choose fewer benchmark.subjects or smaller"
            " benchmark.batches."
        ) from error
    if isinstance(answer, DmqError):
        raise answer
    return answer


@torch.inference_mode()
def _serve(connection: Connection, subject: Subject, network: TimedNetwork) -> None:
    """Runs in the process: loads the subject, then answers until it is told to end."""
    torch.set_num_threads(network.threads)
    try:
        loaded = subject.load(network)
        connection.send(loaded.bytes)
        while (request := connection.recv()) is not None:
            connection.send(_timed(loaded, network, *request))
        connection.send(peak_mib())
    except DmqError as error:
        connection.send(error)
    except EOFError:  # the command has ended
        return
    except Exception as error:  # of a runtime: any kind
        connection.send(
            ConfigError(
                f"A subject could not be run ({type(error).__name__}: {first_line(error)}); leave it out of benchmark.subjects."
            )
        )


def _timed(loaded: Callee, network: TimedNetwork, batch: int, calls: int) -> list[float]:
    """Seconds of each call; every one is at the next timestep."""
    sample, cond = network.sample(batch, loaded.sample_shape), loaded.blank_cond(batch)
    steps = [torch.tensor([timestep]) for timestep in network.timesteps]
    return [_seconds(loaded, number % len(steps), sample, steps[number % len(steps)], cond) for number in range(calls)]


def _seconds(loaded: Callee, number: int, sample: Tensor, timestep: Tensor, cond: object) -> float:
    start = time.perf_counter()
    loaded.call(number, sample, timestep, cond)
    return time.perf_counter() - start


def peak_mib() -> float:
    """The most memory that this process held; what the system adds up for it may begin with what its parent held."""
    status = re.search(r"VmHWM:\s+(\d+) kB", _STATUS.read_text(encoding="utf-8")) if _STATUS.is_file() else None
    if status is not None:
        return int(status[1]) / 1024
    with Stopwatch() as watch:
        pass
    return watch.peak_memory_mb
