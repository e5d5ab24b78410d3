"""Calibration sets: inputs of the network, picked from the full-precision model's own sampling trajectories.

Uniform timestep calibration: Li et al., Q-Diffusion, ICCV 2023 (arXiv 2302.04304), section 3.2: the same number of samples
at evenly spaced steps of the sampler. The set does not depend on bit widths, so one serves a whole sweep.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from dmq_cli.errors import ConfigError
from dmq_cli.models import Denoiser
from dmq_cli.sampling import DDIM, batches, parse_range, walk
from dmq_cli.store.tensors import RowWriter, save_tensors


@dataclass(frozen=True)
class Uniform:
    """Evenly spaced steps of the sampler, at most num_steps; the trajectory of every seed at each.

    seeds: a range like "10-73".
    """

    seeds: str
    num_steps: int

    def steps(self, total: int) -> list[int]:
        """Calls whose inputs are kept, of `total`: every (total // num_steps)-th."""
        if self.num_steps < 1:
            raise ConfigError(f"calib.num_steps={self.num_steps} keeps nothing of a trajectory; use at least 1.")
        return list(range(0, total, max(1, total // self.num_steps)))[: self.num_steps]

    def size(self, total: int) -> int:
        return len(parse_range(self.seeds)) * len(self.steps(total))


@torch.inference_mode()
def collect(
    strategy: Uniform,
    denoiser: Denoiser,
    scheduler: DDIM,
    shape: tuple[int, int, int],
    folder: Path,
    *,
    eta: float = 0.0,
    batch_size: int = 64,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write sample.safetensors (N, C, H, W) and timestep.safetensors (N,) int64 into `folder`.

    One trajectory after the other, so that the order of rows does not depend on the batch size.
    """
    total = len(scheduler.timesteps)
    kept, seeds, timesteps = set(strategy.steps(total)), parse_range(strategy.seeds), []
    done = 0
    with RowWriter(folder / "sample.safetensors", (strategy.size(total), *shape), torch.float32) as writer:
        for batch in batches(seeds, batch_size):
            steps = walk(denoiser, scheduler, batch, shape, eta=eta)
            found = [(step.timestep, step.sample) for step in steps if step.call in kept]
            writer.append(torch.stack([sample for _, sample in found], dim=1).flatten(0, 1))
            timesteps += [timestep for timestep, _ in found] * len(batch)
            done += len(batch)
            report(done, len(seeds))
    save_tensors(folder / "timestep.safetensors", {"data": torch.tensor(timesteps)})
