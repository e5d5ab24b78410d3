"""How long the command line takes when there is nothing to compute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks.timing import say

ROOT = Path(__file__).resolve().parent.parent
RUN = ("method=tac", "bits=w3a8", "budget=smoke")  # a cell of `make demo`, which looks into its finished table first


def dmq(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dmq_cli.cli.app", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)


def test_help(benchmark: BenchmarkFixture) -> None:
    """`dmq --help`, a process from start to end. It imports neither torch nor Hydra."""
    done = benchmark.pedantic(dmq, args=("--help",), rounds=7, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert "evaluate" in done.stdout
    say(benchmark, f"dmq --help: {_fastest(benchmark):.2f} s (target 0.5)")


def test_cached_evaluate(benchmark: BenchmarkFixture) -> None:
    """`dmq evaluate` on a cell of the demo table with every stage in the store. It leaves run folders in outputs/."""
    missing = _missing()
    if missing:
        pytest.skip(f"not in outputs/artifacts: {', '.join(missing)}; first: dmq evaluate {' '.join(RUN)}")
    words = ("-q", "--json", "evaluate", *RUN)
    done = benchmark.pedantic(dmq, args=words, rounds=3)  # type: ignore[no-untyped-call]
    assert "fd" in json.loads(done.stdout)["quantized"]
    say(
        benchmark,
        f"dmq evaluate, all from the cache: {_fastest(benchmark):.2f} s (target 15 for the three cells of the demo)",
    )


def _missing() -> list[str]:
    """Stages that would have to be computed, asked only where there are results at all: `plan` times the network."""
    if not any((ROOT / "outputs" / "artifacts" / "evaluate").glob("*/manifest.json")):
        return ["evaluate"]
    rows: list[dict[str, Any]] = json.loads(dmq("--json", "plan", "evaluate", *RUN).stdout)["plan"]
    return [row["stage"] for row in rows if not row["cached"]]


def _fastest(benchmark: BenchmarkFixture) -> float:
    stats: Any = benchmark.stats
    return float(stats.stats.min)
