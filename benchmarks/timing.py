"""Two things timed by turns, A B A B ..., so that whatever else the machine does meets both of them."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from statistics import median

from pytest_benchmark.fixture import BenchmarkFixture


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def by_turns(
    benchmark: BenchmarkFixture, first: Callable[[], object], second: Callable[[], object], rounds: int
) -> tuple[list[float], list[float]]:
    """Seconds of every call of both. A round of pytest-benchmark's own table is one call of each."""
    times: tuple[list[float], list[float]] = ([], [])

    def turn() -> None:
        times[0].append(seconds(first))
        times[1].append(seconds(second))

    benchmark.pedantic(turn, rounds=rounds, warmup_rounds=1)  # type: ignore[no-untyped-call]
    return times[0][1:], times[1][1:]


def show_ratio(benchmark: BenchmarkFixture, what: str, times: tuple[list[float], list[float]], target: str) -> None:
    """Print the first over the second: the ratio of the fastest calls, which other programs disturb least."""
    lowest = min(times[0]) / min(times[1])
    say(
        benchmark,
        f"{what}: {lowest:.2f} (target {target}; ratio of medians {median(times[0]) / median(times[1]):.2f}, "
        f"fastest calls {min(times[0]):.3g} s and {min(times[1]):.3g} s of {len(times[0])})",
    )


def say(benchmark: BenchmarkFixture, line: str) -> None:
    """Print a result and keep it in pytest-benchmark's report."""
    benchmark.extra_info["result"] = line
    sys.stdout.write(f"\n{line}\n")
