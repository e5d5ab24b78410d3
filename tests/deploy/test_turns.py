"""Turns: who is called when, and how often, on planted clocks."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import dataclass, field

from dmq_cli.deploy.bench.turns import by_turns, calls_of


@dataclass
class Clock:
    """Seconds that pass only where something is called."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Planted:
    """A subject that takes this long. log: shared, of all calls."""

    name: str
    seconds: float
    clock: Clock
    log: list[tuple[str, int, int]] = field(default_factory=list)
    first: float = 0.0

    def run(self, batch: int, calls: int) -> list[float]:
        self.log.append((self.name, batch, calls))
        times = [self.seconds + (self.first if number == 0 else 0.0) for number in range(calls)]
        self.clock.now += sum(times)
        return times


def pair(first: float, second: float) -> tuple[dict[str, Planted], list[tuple[str, int, int]], Clock]:
    log: list[tuple[str, int, int]] = []
    clock = Clock()
    return {"a": Planted("a", first, clock, log), "b": Planted("b", second, clock, log)}, log, clock


def test_every_subject_has_a_turn_in_every_round_after_all_are_warm() -> None:
    subjects, log, clock = pair(1.0, 2.0)
    turns = by_turns(subjects, 16, rounds=6, turn=0.2, seconds=1000.0, clock=clock)
    assert log[:2] == [("a", 16, 3), ("b", 16, 3)]
    assert (
        all(sorted(log[first : first + 2]) == [("a", 16, 1), ("b", 16, 1)] for first in range(2, 14, 2))
        and len(log) == 14
    )
    assert turns == {"a": [[1.0]] * 6, "b": [[2.0]] * 6}


def test_no_subject_has_its_turn_always_after_the_same_other() -> None:
    log: list[tuple[str, int, int]] = []
    subjects = {name: Planted(name, 1.0, Clock(), log) for name in "abc"}
    by_turns(subjects, 1, rounds=60, turn=0.2, seconds=1000.0, clock=Clock())
    names = [name for name, _, _ in log[3:]]
    followed = Counter((first, second) for first, second in itertools.pairwise(names) if first != second)
    assert len(followed) == 6 and min(followed.values()) >= 12


def test_short_calls_are_repeated_and_the_first_of_a_turn_is_not_counted() -> None:
    subjects, log, clock = pair(0.01, 1.0)
    subjects["a"].first = 5.0
    turns = by_turns(subjects, 1, rounds=2, turn=0.2, seconds=1000.0, clock=clock)
    assert sorted(log[2:]) == [("a", 1, 21)] * 2 + [("b", 1, 1)] * 2
    assert turns["a"] == [[0.01] * 20] * 2


def test_time_ends_it_after_a_whole_round_but_not_before_five() -> None:
    subjects, log, clock = pair(10.0, 10.0)
    turns = by_turns(subjects, 1, rounds=50, turn=0.2, seconds=1.0, clock=clock)
    assert [len(turns[name]) for name in "ab"] == [5, 5] and len(log) == 12
    subjects, _, clock = pair(1.0, 1.0)
    assert len(by_turns(subjects, 1, rounds=50, turn=0.2, seconds=16.0, clock=clock)["b"]) == 8


def test_a_turn_has_between_one_and_fifty_calls() -> None:
    assert [calls_of(seconds, 0.2) for seconds in (1e-6, 0.01, 0.15, 3.0)] == [50, 20, 1, 1]
