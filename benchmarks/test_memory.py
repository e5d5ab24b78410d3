"""The most memory that calibration and capture hold, which must not grow with the number of samples."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import say

FULL = "DMQ_BENCH_FULL"


@pytest.mark.parametrize("samples", [128, 256, 1024])
def test_peak_memory(benchmark: BenchmarkFixture, tmp_path: Path, samples: int) -> None:
    """Collecting, fitting all ranges and capturing the largest unit of the CIFAR-10 UNet, in a process of its own.

    Two sizes show that the peak is flat. With DMQ_BENCH_FULL=1 also at 1,024 samples, as the target says.
    """
    if samples > 256 and not os.environ.get(FULL):
        pytest.skip(f"takes a while: set {FULL}=1")
    peaks = in_own_process(benchmark, "benchmarks.memory", [samples], tmp_path)[0]
    steps = ", ".join(f"{name} {mib:.0f}" for name, mib in peaks.items())
    most = max(peaks.values()) / 1024
    say(
        benchmark,
        f"peak memory with {samples} calibration samples: {most:.2f} GiB (target 4; MiB after {steps})",
    )


def test_capture_of_the_largest_block(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """The residual block of Stable Diffusion v1.4 that reads 960 channels of 64x64, 16 samples at once."""
    few, many = in_own_process(benchmark, "benchmarks.sd_block", [32, 128], tmp_path)
    say(
        benchmark,
        f"memory of capturing the SD v1.4 block, 128 samples / 32 samples: {many['capture'] / few['capture']:.2f}"
        f" (target flat; {many['capture'] / 1024:.2f} and {few['capture'] / 1024:.2f} GiB,"
        f" of which {few['start'] / 1024:.2f} before)",
    )


def in_own_process(
    benchmark: BenchmarkFixture, module: str, counts: Sequence[int], folder: Path
) -> list[dict[str, float]]:
    """The peaks in MiB that a module prints for each number of samples."""

    def run() -> list[dict[str, float]]:
        printed = []
        for samples in counts:
            (folder / str(samples)).mkdir()
            command = [sys.executable, "-m", module, str(samples), str(folder / str(samples))]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            printed.append(json.loads(done.stdout))
            shutil.rmtree(folder / str(samples))
        return printed

    peaks: list[dict[str, float]] = benchmark.pedantic(run, rounds=1)  # type: ignore[no-untyped-call]
    return peaks
