"""Time several things by turns, A B B A ..., so that whatever else the machine does meets all of them alike.

The order changes from round to round: what a call leaves in caches, and in the processor's frequency, meets the one after it, and in one
order that would always be the same.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from typing import Protocol

Turns = list[list[float]]
"""Seconds of every timed call of a subject, turn by turn."""
_WARM_UP = 3  # calls; the first compiles
_MOST = 50  # calls of a turn
_LEAST = 5  # rounds, however long they take


class Timed(Protocol):
    """Something that can be called and timed."""

    def run(self, batch: int, calls: int) -> list[float]:
        """Call it so many times on a batch of this size. Returns the seconds of each call."""
        ...


def by_turns(
    subjects: Mapping[str, Timed], batch: int, *, rounds: int, turn: float, seconds: float,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Turns]:  # fmt: skip
    """Warm all subjects up, then give each a turn, round after round, in an order that is another each round and the same each time.

    rounds: at most; turn: seconds that a turn should take, of at least one call; seconds: after which no further round begins, but
    for the first five.
    """
    calls = {name: calls_of(subject.run(batch, _WARM_UP)[-1], turn) for name, subject in subjects.items()}
    turns: dict[str, Turns] = {name: [] for name in subjects}
    started, order = clock(), random.Random(0)
    for number in range(rounds):
        if number >= _LEAST and clock() - started >= seconds:
            break
        for name in order.sample(list(subjects), len(subjects)):
            turns[name].append(_turn(subjects[name], batch, calls[name]))
    return turns


def calls_of(seconds: float, turn: float) -> int:
    """How many calls of this length make a turn, 1..50."""
    return min(_MOST, max(1, round(turn / seconds)))


def _turn(subject: Timed, batch: int, calls: int) -> list[float]:
    """Time a turn. Before short calls one is not counted, in which the caches still hold what others left there."""
    return subject.run(batch, 1) if calls == 1 else subject.run(batch, calls + 1)[1:]
