"""What a run says of how far it is: pace, time left of the stage and of the job, and who is told of stages."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.recon import placed
from dmq_cli.stages import runs
from dmq_cli.stages.graph import Graph, Node, observing
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.pace import Pace
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.remembered import expected_seconds
from dmq_cli.store import ArtifactStore

CONFIG: dict[str, Any] = {
    "a": 1, "runtime": {"force": [], "upstream": "ensure", "device": "cpu", "batch_size": 1},
}  # fmt: skip


def nodes() -> dict[str, Node]:
    first = Node("first", ("a",), lambda task: None)
    return {"first": first, "second": Node("second", ("a",), lambda task: None, ("first",))}


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(logging.getLogger("dmq"), "propagate", True)
    caplog.set_level(logging.INFO, logger="dmq")
    return caplog


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What time.monotonic tells."""
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_pace_of_units_of_equal_work() -> None:
    pace = Pace()
    for second in range(1, 31):  # 4 units of 20 steps, 2 steps a second: after 30 s 60 of 80
        unit, done = divmod(2 * second - 1, 20)
        pace.see(f"unit {unit}", done + 1, 2 * second / 80, float(second))
    assert pace.per_second == pytest.approx(2.0) and pace.seconds_left == pytest.approx(10.0)


def test_what_an_earlier_attempt_did_does_not_count() -> None:
    pace = Pace()
    pace.see("images", 900, 0.9, 100.0)
    assert pace.per_second is None and pace.seconds_left is None
    pace.see("images", 950, 0.95, 110.0)
    assert pace.per_second == pytest.approx(5.0) and pace.seconds_left == pytest.approx(10.0)


def test_a_second_pass_over_the_data_has_a_pace_of_its_own() -> None:
    pace = Pace()
    pace.see("samples", 10, 0.1, 0.0)
    pace.see("samples", 100, 1.0, 10.0)
    pace.see("samples", 10, 0.1, 20.0)
    assert pace.seconds_left is None
    pace.see("samples", 20, 0.2, 25.0)
    assert pace.per_second == pytest.approx(2.0) and pace.seconds_left == pytest.approx(40.0)


def test_a_log_has_a_line_now_and_then_with_the_time_left(log: pytest.LogCaptureFixture, clock: list[float]) -> None:
    progress = Progress()
    progress.live = False
    progress.expect({("reconstruct", "k"): 50.0, ("sample", "k"): 60.0, ("evaluate", "k"): 20.0})
    with progress.stage("reconstruct", "k"):
        for second in range(31):
            clock[0] = float(second)
            progress.update("weights: unit 1 of 4 conv_in", second, 100, 0.5, second / 400)
    lines = [record.getMessage() for record in log.records]
    assert len(lines) == 2 + 1, "at its start and end, and after 15 s"
    assert lines[1] == "reconstruct weights: unit 1 of 4 conv_in loss 0.5 16/100, 1/s, 6 min left, 8 min of the job"


def test_stages_that_never_ran_make_the_time_left_a_least_one(
    log: pytest.LogCaptureFixture, clock: list[float]
) -> None:
    progress = Progress()
    progress.live = False
    progress.expect({("sample", "k"): None, ("trace", "k"): 60.0})
    with progress.stage("sample", "k"):  # what is computed now is no longer waited for
        progress.update("images", 0, 100)
        clock[0] = 20.0
        progress.update("images", 50, 100)
    assert log.records[1].getMessage() == "sample images 50/100, 2.5/s, 20 s left, 80 s of the job"
    progress.expect({("trace", "k"): None})
    with progress.stage("sample", "k"):
        progress.update("images", 0, 100)
        clock[0] = 40.0
        progress.update("images", 50, 100)
    assert log.records[-2].getMessage().endswith("20 s left, at least 20 s of the job")


def test_parts_of_a_reconstruction_know_their_place() -> None:
    calls: list[tuple[str, str, float | None]] = []

    def report(
        unit: str, iteration: int, iterations: int, loss: float, *, where: str = "", share: float | None = None
    ) -> None:
        calls.append((unit, where, share))

    inner = placed(placed(report, "round 1 of 2", 0.5, 0.25), "weights: unit 3 of 4", 0.5, 0.25)
    inner("conv_in", 5, 10, 0.1)
    assert calls == [("conv_in", "round 1 of 2, weights: unit 3 of 4", 0.5 + 0.25 * (0.5 + 0.25 * 0.5))]


def test_observers_are_told_of_what_is_computed_and_of_nothing_else(tmp_path: Path) -> None:
    graph, calls = Graph(nodes(), ArtifactStore(tmp_path), Progress(quiet=True)), []

    @contextlib.contextmanager
    def note(stage: str, key: str) -> Iterator[None]:
        calls.append(("begins", stage, key == graph.key(stage, CONFIG)))
        yield
        calls.append(("is done", stage, graph.store.find(stage, key) is None))

    with observing(note):
        graph.ensure("second", CONFIG)
        graph.ensure("second", CONFIG)
    (tmp_path / "other").mkdir()
    Graph(nodes(), ArtifactStore(tmp_path / "other"), Progress(quiet=True)).ensure("first", CONFIG)
    assert calls == [(what, stage, True) for stage in ("first", "second") for what in ("begins", "is done")]


def test_an_error_of_an_observer_stops_the_run(tmp_path: Path) -> None:
    graph = Graph(nodes(), ArtifactStore(tmp_path), Progress(quiet=True))

    def stop(stage: str, key: str) -> contextlib.AbstractContextManager[None]:
        raise KeyboardInterrupt

    with observing(stop), pytest.raises(KeyboardInterrupt):
        graph.ensure("second", CONFIG)
    assert graph.store.keys("first") == []


def test_what_a_job_has_to_compute_is_expected_to_take_what_it_took(tmp_path: Path) -> None:
    graph = Graph(nodes(), ArtifactStore(tmp_path), Progress(quiet=True))
    keys = {name: graph.key(name, CONFIG) for name in nodes()}
    assert expected_seconds(graph, [("second", CONFIG)]) == {item: None for item in keys.items()}
    graph.ensure("first", CONFIG)
    assert expected_seconds(graph, [("second", CONFIG)]) == {("second", keys["second"]): None}
    forced = {**CONFIG, "runtime": {**CONFIG["runtime"], "force": ["first"]}}
    seconds = expected_seconds(graph, [("second", forced)])
    assert seconds["second", keys["second"]] is None and seconds["first", keys["first"]] is not None


def test_every_stage_has_what_it_runs() -> None:
    assert sorted(runs.__all__) == sorted(NODES)
    assert all(callable(getattr(runs, name)) for name in NODES)
