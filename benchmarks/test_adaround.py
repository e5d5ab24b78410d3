"""What an iteration of learned rounding costs, against forward and backward of the same block without quantizers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

from benchmarks import cifar
from benchmarks.timing import seconds, show_ratio
from dmq_cli.recon import AdaRound, Pass
from dmq_cli.recon.learning import Setting, learn, start
from dmq_cli.recon.losses import lp_loss
from dmq_cli.recon.units import ModuleUnit

UNIT, BATCH, ITERATIONS = "down_blocks.1.resnets.1", 32, 14


class FullPrecision:
    """Forward and backward of the block as it is, to its weights and to both of its inputs."""

    def __init__(self) -> None:
        self.block = cifar.adapter().model.get_submodule(UNIT).requires_grad_(True)
        self.inputs = [torch.randn(BATCH, 256, 16, 16), torch.randn(BATCH, 512)]
        self.target = torch.randn(BATCH, 256, 16, 16)

    def __call__(self) -> None:
        leaves = [x.requires_grad_(True) for x in self.inputs]
        lp_loss(self.block(*leaves), self.target, 2.0).backward()  # type: ignore[no-untyped-call]
        assert all(x.grad is not None for x in (*leaves, *self.block.parameters()))
        for x in (*leaves, *self.block.parameters()):
            x.grad = None


def test_adaround_iteration(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The reconstruction's own loop on a residual block at 4 bits, batch 32: reading the batch, forward, loss, regulariser,
    backward to the rounding parameters, Adam. Between two of its iterations stands one of the block alone."""
    attached, full = cifar.attached("minmax", "w4a8"), FullPrecision()
    learning, unit = Pass(ITERATIONS, rounding=AdaRound(warmup=0.0)), ModuleUnit(UNIT)
    times: tuple[list[float], list[float]] = ([], [])
    mark = 0.0

    def report(unit: str, iteration: int, iterations: int, loss: float, **_: Any) -> None:
        nonlocal mark
        times[0].append(time.perf_counter() - mark)
        times[1].append(seconds(full))
        mark = time.perf_counter()

    def data() -> Iterator[tuple[Tensor, Tensor]]:
        yield cifar.batch(BATCH, seed=1)

    setting = Setting(attached, data, BATCH, tmp_path, report, BATCH)
    chosen = {n: q for n, q in attached.quantizers("weight").items() if unit.owns(n)}
    assert len(chosen) == 3
    arguments = (setting, learning, unit, 0, start(attached, learning, chosen))
    benchmark.pedantic(learn, args=arguments, rounds=1)  # type: ignore[no-untyped-call]
    assert len(times[0]) == ITERATIONS
    kept = times[0][2:], times[1][2:]  # the first holds the capture, and both sides warm up
    show_ratio(benchmark, "AdaRound iteration / FP block forward and backward", kept, "1.5")
