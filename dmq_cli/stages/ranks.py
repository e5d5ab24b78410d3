"""The same command started several times, by torchrun or srun: the processes of one launch work on one run.

What they say to each other lies in the outputs folder, which all of them must see: the first holds a claim on the launch as long as it
lives, with a file that names its run. It does everything; the others make shards (and train, see qat/ranks.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.qat.ranks import Ranks, started
from dmq_cli.stages import workers
from dmq_cli.store import ArtifactStore, digest, read_json, write_json

_PATIENCE = 60.0  # seconds that a process waits for the first one
_LOOK_EVERY = 0.2
_FILE = "first.json"


def place() -> Ranks:
    """Which of how many processes this is, by what torchrun or srun set; alone where neither did. Raises as `started`."""
    number, tasks = os.environ.get("SLURM_PROCID"), os.environ.get("SLURM_NTASKS")
    if "RANK" in os.environ or number is None or tasks is None:
        return started()
    return Ranks(int(number), max(int(tasks), int(number) + 1))


def on_rank(runtime: Mapping[str, Any], ranks: Ranks) -> dict[str, Any]:
    """The runtime of this process: of several on one machine each has a device of its own, and the cores that Slurm gives a task.

    torchrun sets OMP_NUM_THREADS itself. Raises ConfigError for runtime.force, which removes what other processes of the launch read.
    """
    if ranks.size > 1 and runtime.get("force"):
        raise ConfigError(
            f"runtime.force={list(runtime['force'])} was given to {ranks.size} processes of one launch, of which each would remove what the others"
            " make; give it to a single process first, as dmq reconstruct without torchrun or srun."
        )
    chosen = workers.devices(runtime)
    if ranks.size > 1:
        local = int(os.environ.get("LOCAL_RANK", os.environ.get("SLURM_LOCALID", "0")))
        if chosen == ["cuda"]:
            chosen = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
        chosen = [chosen[local % len(chosen)]]
    threads = runtime["threads"]
    if ranks.size > 1 and "RANK" not in os.environ and "OMP_NUM_THREADS" not in os.environ:
        threads = threads or int(os.environ.get("SLURM_CPUS_PER_TASK", "1"))
    devices = chosen if runtime.get("devices") else None
    return {**runtime, "device": chosen[0], "devices": devices, "threads": threads, "ranks": ranks.size}


class Launch:
    """The launch that this process belongs to. outputs: the folder where its processes meet; key: of the run."""

    def __init__(self, ranks: Ranks, outputs: Path, key: str, lock: str = "auto") -> None:
        """lock: see ArtifactStore."""
        self._ranks, self._key, self._outputs = ranks, key, outputs
        self._store, self._name = ArtifactStore(outputs / "ranks", lock), digest(_launch())

    @contextlib.contextmanager
    def leading(self, threads: int) -> Iterator[None]:
        """Inside, the others see that this process, the first, works on the run. threads: of torch in each process."""
        if self._ranks.size == 1:
            yield
            return
        with self._store.claim("launch", self._name) as claim:
            record = {"key": self._key, "threads": threads, "host": socket.gethostname(), "pid": os.getpid()}
            write_json(claim.work / _FILE, record)
            yield

    def alive(self) -> bool:
        """Whether the first process is working."""
        return self._store.busy("launch", self._name)

    def join(self, finished: Callable[[], bool], patience: float = _PATIENCE) -> int | None:
        """Wait for the first process, and return the threads that each process is to have; None where nothing is left to do.

        Raises ConfigError where it works on another run, or is not to be seen.
        """
        until, record = time.monotonic() + patience, dict[str, Any]()
        while time.monotonic() < until:
            if finished():
                return None
            record = self._read()
            if record.get("key") == self._key and self.alive():
                return int(record["threads"])
            time.sleep(_LOOK_EVERY)
        if record.get("key") == self._key:
            return None  # it is over
        raise ConfigError(self._why(record))

    def _read(self) -> dict[str, Any]:
        for folder in self._store.attempts("launch", self._name):
            with contextlib.suppress(ArtifactCorruptError):
                record: dict[str, Any] = read_json(folder / _FILE)
                return record
        return {}

    def _why(self, record: Mapping[str, Any]) -> str:
        who = f"Process {self._ranks.rank} of {self._ranks.size} on {socket.gethostname()}"
        if record:
            return f"{who} was started with another configuration than process 0 on {record['host']}; start all with the same words."
        return (
            f"{who} sees nothing of process 0 in {self._outputs.absolute()}; give a folder that all machines share as"
            " runtime.outputs, and start all processes with the same one."
        )


def _launch() -> list[str | None]:
    """What distinguishes this launch from others that use the same folder."""
    environment = os.environ
    if "RANK" not in environment:
        return [environment.get(name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID")]
    address = environment.get("MASTER_ADDR")
    host = socket.gethostname() if address in (None, "localhost", "127.0.0.1") else address
    return [host, environment.get("MASTER_PORT"), environment.get("TORCHELASTIC_RUN_ID")]
