"""`make gpu-check`: what runs on CUDA is what runs on the CPU, and how fast it is; exit code 1 where a comparison fails.

DEVICE=cpu rehearses all of it without a GPU, with small networks: the comparison is then of the CPU with itself.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu import speed
from benchmarks.gpu.compare import (
    LEAST_FULL,
    LEAST_LEARNED,
    LEAST_SAMPLED,
    Comparison,
    compare_codes,
    compare_distances,
    compare_images,
)
from benchmarks.gpu.networks import CIFAR, STABLE
from benchmarks.gpu.runs import evaluated, sampled_again
from dmq_cli.choices import composed


def compared(folder: Path, device: str, small: bool) -> Iterator[Comparison]:
    """Run the job on both, and compare what they left."""
    first = evaluated(folder / "cpu", "cpu", small)
    second = evaluated(folder / "device", device, small)
    third = sampled_again(folder / "cpu", folder / "again", device, small)
    runs = [Path(result["run"]) for result in (first, second, third)]
    yield compare_codes(runs[0], runs[1])
    yield compare_images("images of full precision", runs[0], runs[1], "sample_fp", LEAST_FULL)
    yield compare_images("images of one quantized network", runs[0], runs[2], "sample", LEAST_SAMPLED)
    yield compare_images("images of the network as learned there", runs[0], runs[1], "sample", LEAST_LEARNED)
    for side in ("evaluate_fp", "evaluate"):
        yield compare_distances(first, second, side)
    yield from with_workers(folder, device, small, runs[2])


def with_workers(folder: Path, device: str, small: bool, run: Path) -> Iterator[Comparison]:
    """Two workers draw the images that one drew."""
    if "workers" not in composed(())["runtime"]:
        yield Comparison("two workers: there is no runtime.workers here, so they are not checked", True)
        return
    result = sampled_again(folder / "cpu", folder / "workers", device, small, "runtime.workers=2")
    yield compare_images("images of two workers", run, Path(result["run"]), "sample", LEAST_SAMPLED)


def measured(device: torch.device, small: bool) -> Iterator[str]:
    """The lines about speed."""
    for case in (CIFAR, STABLE):
        yield from speed.forward(case, device, small)
        yield from speed.adaround(case, device, small)
    yield from speed.layouts(CIFAR, device, small)


def main(device: str, small: bool) -> int:
    """Print a line for everything; 1 where a comparison fails."""
    begin, failed = time.perf_counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for comparison in compared(Path(folder), device, small):
            failed += not comparison.holds
            sys.stdout.write(f"{'ok  ' if comparison.holds else 'FAIL'} {comparison.line}\n")
            sys.stdout.flush()
    for line in measured(torch.device(device), small):
        sys.stdout.write(f"     {line}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{failed} comparisons failed; {time.perf_counter() - begin:.0f} s\n")
    return 1 if failed else 0


if __name__ == "__main__":
    chosen = os.environ.get("DEVICE") or "cuda"
    if chosen.startswith("cuda") and not torch.cuda.is_available():
        sys.exit("make gpu-check needs CUDA, and torch finds none here; rehearse it with: make gpu-check DEVICE=cpu")
    sys.exit(main(chosen, chosen == "cpu"))
