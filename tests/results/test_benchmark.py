"""Statistics of latencies, and the record that holds them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.report.benchmark import benchmark_text
from dmq_cli.results.benchmark import (
    BENCHMARK,
    Benchmark,
    benchmarks,
    percentile,
    ratio,
    read_benchmark,
    summarise,
    write_benchmark,
)
from dmq_cli.store import read_json, write_json
from tests.tiny import one_sentence


def planted(**seconds: list[float]) -> dict[str, Any]:
    """A record of subjects with these medians of turns, at batch size 4."""
    subjects = {
        name: {
            "simulated": name == "simulated",
            "bytes": 1_000_000,
            "peak_mib": 300.0,
            "batches": {"4": summarise([[turn] for turn in turns], 4)},
        }
        for name, turns in seconds.items()
    }
    names = {"model": "ddim_digits", "method": "tac", "bits": "w8a8", "weights": "random", "overrides": []}
    machine = {"cpu": "Some CPU", "instruction_set": "avx512_vnni", "threads": 2}
    config = {"benchmark": {"fitted": "noise"}}
    shape = {"sample_shape": [1, 16, 16], "calls": 100, "estimates": 2}
    return {"schema": 1, **names, **shape, "machine": machine, "subjects": subjects, "config": config, "artifacts": {}}


@pytest.mark.parametrize("count", [1, 2, 19, 20, 21, 100])
def test_percentiles_are_values_that_were_measured(count: int) -> None:
    values = sorted(random.Random(count).random() for _ in range(count))
    for part in (0.5, 0.95, 1.0):
        assert percentile(values, part) == np.percentile(values, 100 * part, method="inverted_cdf")


def test_a_summary_is_over_all_calls_of_all_turns() -> None:
    summary = summarise([[0.1, 0.2, 0.3], [0.2, 0.2, 1.0]], 16)
    assert summary["p50"] == 0.2 and summary["p95"] == 1.0 and summary["calls"] == 6
    assert summary["images_per_second"] == 80.0 and summary["turns"] == [0.2, 0.2]


def test_a_ratio_survives_what_slows_both_down() -> None:
    """Other programs make some rounds ten times as slow: the medians' ratio is far off, that of turns is not."""
    draw = random.Random(1)
    load = [10.0 if draw.random() < 0.5 else 1.0 for _ in range(40)]
    fast = [0.1 * busy for busy in load]
    slow = [0.4 * busy * draw.uniform(0.99, 1.01) for busy in load]
    speedup = ratio(slow, fast)
    assert speedup.interval is not None
    assert abs(speedup.value - 4) < 0.01 and speedup.interval[0] < 4.01 and speedup.interval[1] > 3.99
    assert speedup.interval[1] - speedup.interval[0] < 0.05


def test_an_interval_is_wider_where_less_is_known() -> None:
    draw = random.Random(2)
    slow = [draw.uniform(3, 5) for _ in range(80)]
    few, many = (ratio(slow[:count], [1.0] * count).interval for count in (8, 80))
    assert few is not None and many is not None
    assert few[1] - few[0] > many[1] - many[0] > 0


def test_seconds_of_a_run_are_those_of_all_its_calls() -> None:
    assert Benchmark(planted(eager=[0.5, 0.5])).seconds("eager", 4) == 100 * 2 * 0.5


def test_every_line_says_whether_it_is_real_and_the_head_what_it_was_measured_on() -> None:
    text = benchmark_text(Benchmark(planted(eager=[0.4] * 5, simulated=[0.8] * 5, static=[0.1] * 5)), "somewhere")
    assert "ddim_digits (random weights) tac w8a8" in text and "Some CPU, avx512_vnni, 2 threads" in text
    rows = {line.split()[0]: line for line in text.splitlines() if line.startswith("  ")}
    assert "real" in rows["static"] and "4.00 (4.00 to 4.00)" in rows["static"] and "simulated" in rows["simulated"]
    assert "0.50" in rows["simulated"] and "fitted to noise" in text


def test_a_record_is_read_as_it_was_written_and_an_altered_one_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "ddim_digits-tac-w8a8-0123abcd"
    write_benchmark(folder, planted(eager=[0.5]), {"key": "0123abcd" * 4, "artifacts": {}})
    assert read_benchmark(folder).latency("eager", 4)["p50"] == 0.5
    assert [place for place, _ in benchmarks(tmp_path)] == [folder]
    content = read_json(folder / BENCHMARK)
    changes: tuple[dict[str, Any], ...] = ({"config": {}}, {"schema": 2})
    for change in changes:
        write_json(folder / BENCHMARK, {**content, **change})
        with pytest.raises(ArtifactCorruptError) as caught:
            read_benchmark(folder)
        assert "schema" not in change or one_sentence(caught.value)
        assert list(benchmarks(tmp_path)) == []
