"""What a folder of outputs with 10,000 artifacts and 2,000 runs costs, against one with the artifacts of a single run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.planted import plant_artifacts, plant_runs
from benchmarks.timing import by_turns, say, seconds, show_ratio

ROOT = Path(__file__).resolve().parent.parent
ARTIFACTS, RUNS, ROUNDS = 10_000, 2_000, 5
RUN = (
    "evaluate", "model=ddim_digits", "method=minmax", "bits=w8a8", "seeds=0-19", "protocol.num_images=20", "trace=null",
    "protocol.metrics.is=null", "protocol.metrics.kid=null", "protocol.metrics.prc=null", "calib.seeds=1000000-1000007",
    "sampler.num_inference_steps=4", "runtime.threads=1",
)  # fmt: skip


def dmq(outputs: Path, *words: str) -> None:
    """A command in a process of its own."""
    command = [sys.executable, "-m", "dmq_cli.cli.app", "-q", *words, f"runtime.outputs={outputs}"]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The outputs of one run, and the same with many more."""
    small = tmp_path_factory.mktemp("small") / "outputs"
    dmq(small, *RUN)
    large = small.with_name("large")
    shutil.copytree(small, large, symlinks=True)
    plant_runs(large, RUNS)
    plant_artifacts(large, ARTIFACTS)
    return large, small


def test_cached_evaluate(benchmark: BenchmarkFixture, stores: tuple[Path, Path]) -> None:
    """`dmq evaluate` with every stage in the store, a process from start to end."""
    large, small = stores
    times = by_turns(benchmark, lambda: dmq(large, *RUN), lambda: dmq(small, *RUN), ROUNDS)
    show_ratio(benchmark, f"evaluate from the cache, {ARTIFACTS:,} artifacts / one run's", times, "1.5")


def test_plan(benchmark: BenchmarkFixture, stores: tuple[Path, Path]) -> None:
    """`dmq plan` of a job of which nothing is there: it looks for what is most like it, and for times."""
    large, small = stores
    words = ("plan", *RUN, "calib.seeds=2000000-2000007", "seeds=50-69")
    times = by_turns(benchmark, lambda: dmq(large, *words), lambda: dmq(small, *words), ROUNDS)
    show_ratio(benchmark, f"plan of another job, {ARTIFACTS:,} artifacts / one run's", times, "1.5")


@pytest.mark.parametrize("words", [("list", "runs"), ("list", "artifacts"), ("clean", "--dry-run")], ids=" ".join)
def test_listing(benchmark: BenchmarkFixture, stores: tuple[Path, Path], words: tuple[str, ...]) -> None:
    """Commands that look at everything."""
    times = [seconds(lambda: dmq(stores[0], *words)) for _ in range(2)]
    benchmark.pedantic(dmq, args=(stores[0], *words))  # type: ignore[no-untyped-call]
    say(benchmark, f"dmq {' '.join(words)} of {ARTIFACTS:,} artifacts and {RUNS:,} runs: {min(times):.1f} s")
