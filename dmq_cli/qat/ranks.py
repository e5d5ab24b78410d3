"""Training by several processes, as torchrun starts them: each takes its share of every batch, gradients are averaged.

The same command is started n times; RANK and WORLD_SIZE say which of them a process is. The first one computes everything else, writes
checkpoints and the artifact; the others only help it train.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import distributed, nn
from torch.distributed.rendezvous import rendezvous

from dmq_cli.errors import ConfigError

_PATIENCE = timedelta(minutes=5)  # until all processes have met
_WORK = timedelta(days=1)  # for what the first does alone, as judging candidates; torchrun ends all where one dies


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether it is the one that writes."""
        return self.rank == 0

    def share(self, rows: torch.Tensor) -> torch.Tensor:
        """Of the rows of a batch those of this process."""
        return rows[self.rank :: self.size]


def started() -> Ranks:
    """Read what torchrun set in the environment. Raises ConfigError where that makes no sense."""
    try:
        ranks = Ranks(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise ConfigError(f"RANK and WORLD_SIZE are to be whole numbers ({error}); let torchrun set them.") from error
    if not 0 <= ranks.rank < ranks.size:
        raise ConfigError(f"RANK={ranks.rank} is none of WORLD_SIZE={ranks.size} processes; let torchrun set them.")
    return ranks


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[Ranks]:
    """Inside, the processes that were started know of each other; alone where there is one. ConfigError if they do not meet.

    device: the one of this process.
    """
    ranks = started()
    if ranks.size == 1:
        yield ranks
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # what NCCL sends lies there, otherwise on the first device for all of them
    try:
        store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
        distributed.init_process_group(backend_for(device), store=store, rank=rank, world_size=size, timeout=_WORK)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"Process {ranks.rank} of {ranks.size} did not meet the others at {os.environ.get('MASTER_ADDR')}:"
            f"{os.environ.get('MASTER_PORT')} ({reason}); start all of them, or one without torchrun."
        ) from error
    try:
        yield ranks
    finally:
        distributed.destroy_process_group()


def backend_for(device: torch.device) -> str:
    """NCCL, which takes one process a device, where these are enough of them."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return "nccl" if device.type == "cuda" and local <= torch.cuda.device_count() else "gloo"


def check_together(step: int, folder: Path, ranks: Ranks) -> None:
    """Check that this process goes on from the same step as the first. folder: of the first one's checkpoints. Raises ConfigError."""
    of_first = told(step, ranks)
    if step != of_first:
        raise ConfigError(
            f"Process {ranks.rank} of {ranks.size} is at step {step} and the first one at {of_first}, whose checkpoints are in {folder};"
            " give a folder that all machines share as runtime.outputs."
        )


def parallel(network: nn.Module, ranks: Ranks) -> nn.Module:
    """The network, whose gradients are averaged over all processes in the backward pass."""
    return network if ranks.size == 1 else nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)


def told(value: Any, ranks: Ranks) -> Any:
    """What the first process has as `value`, in all of them."""
    if ranks.size == 1:
        return value
    values = [value]
    distributed.broadcast_object_list(values, 0)
    return values[0]
