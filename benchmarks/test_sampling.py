"""What the sampling loop adds to the network calls it makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import cifar
from benchmarks.timing import say, seconds
from dmq_cli.models import ModelDenoiser
from dmq_cli.sampling import walk

BATCH, STEPS, WALKS = 32, 3, 3


@dataclass
class Spent:
    """Seconds of this process. On a shared machine those of the CPU are steadier than those on the wall."""

    cpu: float = 0.0
    wall: float = 0.0

    def add(self, action: Callable[[], object]) -> None:
        start = time.process_time()
        self.wall += seconds(action)
        self.cpu += time.process_time() - start


@torch.inference_mode()
def test_sampling(benchmark: BenchmarkFixture) -> None:
    """DDIM over the CIFAR-10 UNet without a correction; between two steps of the loop stands a bare call of the network."""
    adapter, scheduler = cifar.adapter(), cifar.scheduler(STEPS)
    denoiser, inputs = ModelDenoiser(adapter), cifar.batch(BATCH, seed=1)
    model, times = adapter.model, list[tuple[Spent, Spent]]()

    def one() -> None:
        steps, own, bare = walk(denoiser, scheduler, range(BATCH), cifar.SHAPE), Spent(), Spent()
        for timestep in scheduler.timesteps:
            own.add(lambda: next(steps))
            bare.add(lambda t=timestep: model(inputs[0], t, return_dict=False))  # type: ignore[misc]
        times.append((own, bare))

    benchmark.pedantic(one, rounds=WALKS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert len(times) == WALKS + 1
    cpu, wall = ([getattr(a, kind) / getattr(b, kind) for a, b in times[1:]] for kind in ("cpu", "wall"))
    say(
        benchmark,
        f"sampling / bare network calls: {median(cpu):.3f} in CPU time, {min(cpu):.3f} to {max(cpu):.3f}"
        f" (target 1.03; wall time {median(wall):.3f}, {min(wall):.3f} to {max(wall):.3f};"
        f" medians of {WALKS} walks of {STEPS} steps)",
    )
