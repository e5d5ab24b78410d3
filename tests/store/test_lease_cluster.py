"""The protocol of leases on a simulated disk whose link and rename are atomic: many workers that die, stop and come back, or are slow."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dmq_cli.errors import ArtifactError
from dmq_cli.store.lease import Lease, Owner, OwnerFile, SilenceWatch, attempt
from tests.store.simulated import Machine, Process, current, step

SILENCE = 8.0
CHUNKS = 3


class Shard(NamedTuple):
    """What lies on the disk for one shard. numbers: owner files; work: chunks in the folder of each token."""

    numbers: dict[int, Content]
    work: dict[str, set[int]]


@dataclass
class Content:
    """A file, also after its name is gone."""

    value: bytes

    def write(self, content: bytes) -> None:
        step()
        self.value = content

    def close(self) -> None:
        """Nothing is kept open."""


class SimulatedOwners:
    """Owners of one shard; every call is a step."""

    def __init__(self, numbers: dict[int, Content]) -> None:
        self._numbers = numbers

    def numbers(self) -> list[int]:
        step()
        return sorted(self._numbers)

    def read(self, number: int) -> bytes:
        step()
        return self._numbers[number].value if number in self._numbers else b""

    def create(self, number: int, content: bytes) -> OwnerFile | None:
        step()
        if number in self._numbers:
            return None
        self._numbers[number] = Content(content)
        return self._numbers[number]

    def remove(self, number: int) -> None:
        step()
        self._numbers.pop(number, None)


@dataclass
class Cluster:
    """Workers, each with a clock of its own, that commit every shard. done: the chunks of each; counts: what happened."""

    workers: int
    shards: int
    seed: int
    done: dict[int, set[int]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.random, self.machine = random.Random(self.seed), Machine(SILENCE)
        self.open = list(range(self.shards))
        self.disk = [Shard({}, {}) for _ in range(self.shards)]

    def run(self) -> None:
        """Until everything is committed and everybody is gone."""
        with self.machine.ended():
            for _ in range(self.workers):
                self.machine.start(self._worker())
            while not all(process.over for process in self.machine.processes):
                ready = self.machine.can_run()
                self.random.shuffle(ready)
                for process in ready:
                    self._turn(process)
                if not ready and not self.machine.pass_to_the_next():
                    break  # all that are left are stopped, for good
                self.machine.processes = [process for process in self.machine.processes if not process.over]
        assert not [process.error for process in self.machine.processes if process.error]

    def _turn(self, process: Process) -> None:
        """One step of a process, or one of the things that happen to processes."""
        chance = self.random.random()
        if chance < 0.002:
            self.counts["killed"] += bool(process.leases)
            process.kill()
            self.machine.start(self._worker())
        elif chance < 0.006:  # stopped: it does not renew anything either
            process.stopped, until = True, self.machine.now + self.random.uniform(0.5, 4) * SILENCE
            self.machine.start(lambda: self._wake(process, until))
        elif chance < 0.010:  # slow
            process.awake = self.machine.now + self.random.uniform(0, 2) * SILENCE
        else:
            process.advance()
            if process.error is not None:
                raise process.error

    def _wake(self, process: Process, until: float) -> None:
        while self.machine.now < until:
            self._sleep(until - self.machine.now)
        process.stopped = False

    def _worker(self) -> Callable[[], None]:
        rng = random.Random(self.random.random())
        offset, rate = rng.uniform(-1e6, 1e6), rng.uniform(0.9, 1.1)

        def work() -> None:
            while self.open:
                self._shard(rng.choice(self.open), lambda: offset + rate * self.machine.now)

        return work

    def _sleep(self, seconds: float) -> None:
        """To a multiple of a quarter, so that many wake up at once."""
        self.machine.sleep((self.machine.now + seconds + 0.25) // 0.25 * 0.25 - self.machine.now)

    def _shard(self, number: int, clock: Callable[[], float]) -> None:
        """What ArtifactStore.claim and its block do."""
        owners = SimulatedOwners(self.disk[number].numbers)
        watch = SilenceWatch(owners, clock)
        while number not in self.done:
            owner = Owner(f"{self.counts['attempts']}", os.getpid(), "host", "now", SILENCE)
            self.counts["attempts"] += 1
            if (lease := attempt(owners, owner, watch.is_free)) is None:
                self._sleep(SILENCE / 32)
                continue
            leases = current().leases  # type: ignore[union-attr]
            leases.append(lease)
            try:
                self._compute(number, lease)
            except ArtifactError:
                self.counts["refused"] += 1
            finally:
                lease.release()
                if lease in leases:
                    leases.remove(lease)

    def _compute(self, number: int, lease: Lease) -> None:
        work = self.disk[number].work
        for owner in reversed(lease.earlier):
            step()
            if owner.token in work and lease.token not in work:
                work[lease.token] = work.pop(owner.token)
                self.counts["gone on with"] += 1
        lease.settle()
        if number in self.done:
            return
        folder = work.setdefault(lease.token, set())
        for chunk in range(CHUNKS):
            if chunk not in work.get(lease.token, ()):
                self._sleep(SILENCE / 5)
                step()
                work.setdefault(lease.token, set()).add(chunk)  # as writing a file does, which makes its folder
        self._commit(number, lease, folder)

    def _commit(self, number: int, lease: Lease, folder: set[int]) -> None:
        work = self.disk[number].work
        lease.check()
        step()
        lease.check()
        if work.get(lease.token) is not folder:
            raise ArtifactError("another folder")
        step()
        if lease.token not in work or number in self.done:
            raise ArtifactError("renamed by another, or there already")
        self.done[number] = work.pop(lease.token)
        self.open.remove(number)
        self.counts["committed"] += 1


def check(cluster: Cluster) -> None:
    cluster.run()
    assert cluster.counts["committed"] == len(cluster.done) == cluster.shards
    assert all(chunks == set(range(CHUNKS)) for chunks in cluster.done.values())


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_every_shard_is_committed_once(seed: int) -> None:
    check(Cluster(12, 40, seed))


@pytest.mark.slow
def test_512_workers_and_10000_shards() -> None:
    cluster = Cluster(512, 10_000, 0)
    check(cluster)
    assert min(cluster.counts[what] for what in ("killed", "refused", "gone on with")) >= 50
