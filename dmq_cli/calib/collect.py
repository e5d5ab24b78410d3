"""Calibration sets: inputs of the network, picked from its own sampling trajectories by a strategy.

The set does not depend on bit widths, so one serves a whole sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from dmq_cli.calib.features import mid_features
from dmq_cli.calib.strategy import Strategy
from dmq_cli.models import Adapter, Denoiser
from dmq_cli.ops import moved
from dmq_cli.sampling import UNGUIDED, Guide, Scheduler, Step, batches, parse_range, walk
from dmq_cli.store.tensors import RowWriter, load_tensors, save_tensors

_SAMPLES, _TIMESTEPS = "sample.safetensors", "timestep.safetensors"


@dataclass(frozen=True)
class Collection:
    """A calibration set and how it is made.

    shape: of a sample, without the batch. scheduler: the sampler's; it is not changed. adapter: the network that `denoiser` runs, for
    strategies that look into it. Raises ConfigError for a strategy that does not fit the sampler or the network.
    """

    strategy: Strategy
    denoiser: Denoiser
    scheduler: Scheduler
    shape: tuple[int, ...]
    eta: float = 0.0
    adapter: Adapter | None = None
    guide: Guide = UNGUIDED

    def __post_init__(self) -> None:
        self.strategy.check(self.scheduler)

    @property
    def seeds(self) -> range:
        """Of its trajectories."""
        return parse_range(self.strategy.seeds)

    @cached_property
    def calls(self) -> list[list[int]]:
        """The calls whose inputs are kept, of every trajectory."""

        def features(num: int) -> Iterator[Tensor]:
            seeds = self.seeds[:num]
            return mid_features(self.adapter, self.denoiser, self._plan, seeds, self.shape, self.eta, self.guide)

        with torch.inference_mode():
            return self.strategy.choose(self._plan, features)

    def write_all(self, folder: Path, batch_size: int, report: Callable[[int, int], None]) -> None:
        """Write the whole set, its timesteps last. report(trajectories done, all of them)."""
        self.write_conditions(folder)
        self.write(folder, self.seeds, batch_size, report)

    @torch.inference_mode()
    def write(self, folder: Path, seeds: range, batch_size: int, report: Callable[[int, int], None]) -> None:
        """Write the rows of these seeds, a part of its own, trajectory after trajectory and each in sampling order.

        sample.safetensors (N, C, ...) and timestep.safetensors (N,) int64; with guidance every sample is there twice. The order of rows
        does not depend on the batch size.
        """
        calls = self._calls_of(seeds)
        timesteps: list[int] = []
        with self._writer(folder, sum(map(len, calls))) as writer:
            for batch in batches(seeds, batch_size):
                done = batch.stop - seeds.start
                steps = walk(self.denoiser, self._plan, batch, self.shape, eta=self.eta, guide=self.guide)
                samples, batch_timesteps = _select_inputs(steps, calls[done - len(batch) : done])
                writer.append(samples.repeat_interleave(self._times, 0))
                timesteps += batch_timesteps
                report(done, len(seeds))
        _save_timesteps(folder, torch.tensor(timesteps).repeat_interleave(self._times))

    def join(self, folder: Path, parts: Sequence[Path]) -> None:
        """Write the whole set from folders that have its parts, in order."""
        with self._writer(folder, sum(map(len, self.calls))) as writer:
            for part in parts:
                writer.append(load_tensors(part / _SAMPLES)["data"])
        timesteps = [load_tensors(part / _TIMESTEPS)["data"] for part in parts]
        self.write_conditions(folder)
        _save_timesteps(folder, torch.cat(timesteps))

    def write_conditions(self, folder: Path) -> None:
        """Write condition.safetensors, a row for each trajectory, and index.safetensors (N,) int64, the condition's row of each sample.

        Nothing where the model has no conditions. With guidance every sample has two rows of the index, as the network reads it twice:
        its trajectory's condition, then the unconditional one, the last row.
        """
        conditions, none = self.guide.cond(self.seeds), self.guide.none
        if conditions is None:
            return
        index = torch.arange(len(self.seeds)).repeat_interleave(torch.tensor([len(chosen) for chosen in self.calls]))
        if none is not None:
            conditions = {name: torch.cat([value, none[name]]) for name, value in conditions.items()}
            index = torch.stack([index, torch.full_like(index, len(self.seeds))], 1).flatten()
        save_tensors(folder / "condition.safetensors", conditions)
        save_tensors(folder / "index.safetensors", {"data": index})

    @cached_property
    def _plan(self) -> Scheduler:
        return self.strategy.scheduler(self.scheduler)

    @property
    def _times(self) -> int:
        return 1 if self.guide.none is None else 2

    def _calls_of(self, seeds: range) -> list[list[int]]:
        start = seeds.start - self.seeds.start
        return self.calls[start : start + len(seeds)]

    def _writer(self, folder: Path, count: int) -> RowWriter:
        return RowWriter(folder / _SAMPLES, (self._times * count, *self.shape), torch.float32)


def collect(
    strategy: Strategy,
    denoiser: Denoiser,
    scheduler: Scheduler,
    shape: tuple[int, ...],
    folder: Path,
    *,
    eta: float = 0.0,
    batch_size: int = 64,
    report: Callable[[int, int], None] = lambda done, total: None,
    adapter: Adapter | None = None,
    guide: Guide = UNGUIDED,
) -> None:
    """Write a whole calibration set; see Collection."""
    Collection(strategy, denoiser, scheduler, shape, eta, adapter, guide).write_all(folder, batch_size, report)


def _save_timesteps(folder: Path, timesteps: Tensor) -> None:
    save_tensors(folder / _TIMESTEPS, {"data": timesteps})


def _select_inputs(steps: Iterable[Step], calls: Sequence[Sequence[int]]) -> tuple[Tensor, list[int]]:
    """Select inputs and timesteps of one batch, trajectory after trajectory. calls: those to keep of each trajectory."""
    inputs: list[list[tuple[Tensor, int]]] = [[] for _ in calls]
    for step in steps:
        who = [i for i, chosen in enumerate(calls) if step.call in chosen]
        rows = step.input.index_select(
            0, moved(torch.tensor(who, dtype=torch.int64), step.input.device)
        )  # a copy: no view keeps the batch alive
        for i, sample in zip(who, rows, strict=True):
            inputs[i].append((sample, step.timestep))
    flat = [pair for trajectory in inputs for pair in trajectory]
    return torch.stack([sample for sample, _ in flat]).cpu(), [timestep for _, timestep in flat]
