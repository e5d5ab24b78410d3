"""The real store with leases: processes that may stop, be killed or come back before any call that touches the disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from dmq_cli.errors import ArtifactError
from dmq_cli.store import ArtifactStore, lease
from dmq_cli.store.files import write_text
from dmq_cli.store.lease import Lease
from tests.listening import listening
from tests.store.simulated import Machine, Process, current, step

KEYS = ("a" * 32, "b" * 32)
CHUNKS = ("tmp-0", "tmp-parts/0", "tmp-parts/1")
SILENCE = 8.0
_EVENTS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.listdir", "os.scandir")


def compute(root: Path, keys: tuple[str, ...], committed: list[str]) -> None:
    """A process that computes every artifact that is not there, chunk by chunk."""
    store = ArtifactStore(root, "lease", SILENCE)
    for key in keys:
        with store.claim("sample", key) as claim:
            if claim.done is not None:
                continue
            for chunk in CHUNKS:
                if not (claim.work / chunk).exists():
                    write_text(claim.work / chunk, f"{key} {chunk}\n")
            write_text(claim.work / "whole", "".join((claim.work / chunk).read_text() for chunk in CHUNKS))
            claim.commit({})
            committed.append(key)


class Cluster(RuleBasedStateMachine):
    """Three processes at a time on two artifacts."""

    def __init__(self) -> None:
        super().__init__()
        self.root, self.machine, self.stack = Path(tempfile.mkdtemp()), Machine(SILENCE), ExitStack()
        self.committed: list[str] = []
        clock = SimpleNamespace(monotonic=lambda: self.machine.now, sleep=self.machine.sleep, time=lambda: 1e12)
        write = lease._Open.write
        self.stack.callback(shutil.rmtree, self.root)
        self.stack.enter_context(patch.object(lease, "time", clock))
        self.stack.enter_context(patch.object(Lease, "keep_alive", lambda held: current().leases.append(held)))  # type: ignore[union-attr]
        self.stack.enter_context(patch.object(lease._Open, "write", _stepping(write)))
        self.stack.enter_context(listening(self._heard))
        self.stack.enter_context(self.machine.ended())

    def _heard(self, name: str, arguments: tuple[Any, ...]) -> None:
        if current() is not None and name in _EVENTS and str(self.root) in str(arguments[0]):
            step()

    @initialize()
    def start(self) -> None:
        for _ in range(3):
            self._start()

    def _start(self) -> None:
        keys = KEYS if len(self.machine.processes) % 2 else KEYS[::-1]
        self.machine.start(lambda: compute(self.root, keys, self.committed))

    def _process(self, index: int) -> Any:
        alive = [process for process in self.machine.processes if not process.over]
        return alive[index % len(alive)] if alive else None

    @rule(index=st.integers(0, 2), count=st.integers(1, 40))
    def advance(self, index: int, count: int) -> None:
        process = self._process(index)
        for _ in range(count):
            if process in self.machine.can_run():
                process.advance()

    @rule(index=st.integers(0, 2))
    def kill(self, index: int) -> None:
        if (process := self._process(index)) is not None:
            process.kill()
            self._start()

    @rule(index=st.integers(0, 2))
    def stop_or_go_on(self, index: int) -> None:
        if (process := self._process(index)) is not None:
            process.stopped = not process.stopped

    @rule(seconds=st.sampled_from([0.5, 1.0, SILENCE, 3 * SILENCE]))
    def pass_time(self, seconds: float) -> None:
        self.machine.pass_time(seconds)

    @rule(index=st.integers(0, 2), count=st.integers(0, 60), turns=st.integers(150, 400))
    def stop_for_long(self, index: int, count: int, turns: int) -> None:
        """After some steps of one the others go on, follow it and may commit; then it comes back."""
        self.advance(index, count)
        if (process := self._process(index)) is not None:
            process.stopped = True
            self.turns(turns, never)
            process.stopped = False

    def turns(self, most: int, enough: Callable[[], bool]) -> None:
        """Let all that are not stopped go on until they are over, or it is enough, or for so many turns."""
        for _ in range(most):
            if enough() or all(process.over or process.stopped for process in self.machine.processes):
                return
            self._a_turn_of_all()

    def _a_turn_of_all(self) -> None:
        for other in self.machine.can_run():
            other.advance()
        if not self.machine.can_run():
            self.machine.pass_to_the_next()

    def teardown(self) -> None:
        try:
            self._finish()
        finally:
            self.stack.close()

    def _finish(self) -> None:
        self._start()
        for process in self.machine.processes:
            process.stopped = False
        self.turns(20_000, never)
        errors = [process.error for process in self.machine.processes if process.error is not None]
        assert all(process.over for process in self.machine.processes), "nobody waits for ever"
        assert all(isinstance(error, ArtifactError) and "took over" in str(error) for error in errors), errors
        assert len(self.committed) == len(set(self.committed)), "once each, or killed right after it"
        store = ArtifactStore(self.root, "lease")
        for key in KEYS:
            folder = store.verify("sample", key)
            assert (folder / "whole").read_text() == "".join(f"{key} {chunk}\n" for chunk in CHUNKS)


def _stepping(write: Callable[..., None]) -> Callable[..., None]:
    def stepping(file: Any, content: bytes) -> None:
        step()
        write(file, content)

    return stepping


Cluster.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCluster = Cluster.TestCase


def never() -> bool:
    """It is not enough before all are over."""
    return False


def followed(process: Process) -> bool:
    """Whether another process has taken over, and has seen to what this one left: then this one's number is gone."""
    return any(held._number not in held._owners.numbers() for held in process.leases if not held._end.is_set())


@pytest.mark.parametrize("stride", [9, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("end", ["killed", "stopped", "back soon"])
def test_an_end_at_any_step(end: str, stride: int) -> None:
    """One process is killed before a step, or stopped until all others are over, or until another has just taken over."""
    refused = steps = 0
    while True:
        cluster = Cluster()
        cluster.start()
        first = cluster.machine.processes[0]
        cluster.advance(0, steps)
        if first.over:
            break
        first.stopped = True
        if end == "killed":
            first.kill()
        cluster.turns(3000, partial(followed, first) if end == "back soon" else never)
        if end == "back soon":
            first.stopped = False
            cluster.advance(0, 1000)
        else:
            assert all(process.over for process in cluster.machine.processes[1:])
            assert ArtifactStore(cluster.root, "lease").keys("sample") == list(KEYS)
        cluster.teardown()
        refused += first.error is not None
        steps += stride
    cluster.teardown()
    assert steps >= 100
    assert refused == 0 if end == "killed" else refused * stride >= 70
