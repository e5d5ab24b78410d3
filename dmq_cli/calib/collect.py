"""Calibration sets: inputs of the network, picked from its own sampling trajectories by a strategy.

The set does not depend on bit widths, so one serves a whole sweep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dmq_cli.calib.features import mid_features
from dmq_cli.calib.strategy import Strategy
from dmq_cli.models import Adapter, Denoiser
from dmq_cli.ops import moved
from dmq_cli.sampling import UNGUIDED, Guide, Scheduler, Step, batches, parse_range, walk
from dmq_cli.store.tensors import RowWriter, save_tensors


@torch.inference_mode()
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
    """Write sample.safetensors (N, C, ...) and timestep.safetensors (N,) int64 into `folder`.

    For a conditional model also condition.safetensors, a row for each trajectory, and index.safetensors (N,) int64, the
    condition's row of each sample. With guidance every sample is there twice, as the network reads it twice: with its
    trajectory's condition, then with the unconditional one, the last row.

    One trajectory after the other, its steps in sampling order, so that the order of rows does not depend on the batch
    size. scheduler: the sampler's; it is not changed. adapter: the network that `denoiser` runs, for strategies that look into
    it. Raises ConfigError for a strategy that does not fit the sampler or the network.
    """
    strategy.check(scheduler)
    plan, seeds = strategy.scheduler(scheduler), parse_range(strategy.seeds)
    calls = strategy.choose(plan, lambda num: mid_features(adapter, denoiser, plan, seeds[:num], shape, eta, guide))
    times = 1 if guide.none is None else 2
    timesteps: list[int] = []
    with RowWriter(
        folder / "sample.safetensors", (times * strategy.size(len(scheduler.timesteps)), *shape), torch.float32
    ) as writer:
        for batch in batches(seeds, batch_size):
            done = batch.stop - seeds.start
            steps = walk(denoiser, plan, batch, shape, eta=eta, guide=guide)
            samples, batch_timesteps = _select_inputs(steps, calls[done - len(batch) : done])
            writer.append(samples.repeat_interleave(times, 0))
            timesteps += batch_timesteps
            report(done, len(seeds))
    _save_conditions(folder, guide, seeds, [len(chosen) for chosen in calls])
    save_tensors(folder / "timestep.safetensors", {"data": torch.tensor(timesteps).repeat_interleave(times)})


def _save_conditions(folder: Path, guide: Guide, seeds: range, counts: Sequence[int]) -> None:
    """Write condition and index. counts: the number of inputs kept of each trajectory."""
    conditions, none = guide.cond(seeds), guide.none
    if conditions is None:
        return
    index = torch.arange(len(seeds)).repeat_interleave(torch.tensor(counts))
    if none is not None:
        conditions = {name: torch.cat([value, none[name]]) for name, value in conditions.items()}
        index = torch.stack([index, torch.full_like(index, len(seeds))], 1).flatten()
    save_tensors(folder / "condition.safetensors", conditions)
    save_tensors(folder / "index.safetensors", {"data": index})


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
