"""Estimate how fast a stage goes, and how long the rest of it takes at that pace."""

from __future__ import annotations

_LEAST = 2.0  # seconds, before which a pace is chance


class Pace:
    """Counts steps and shares of work. The share at the first one, from an attempt that was killed, does not count.

    per_second: steps; seconds_left: of the work; both None before there is a pace.
    """

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # time and share
        self._steps, self._done, self._label, self._share = 0, 0, "", 0.0
        self.per_second: float | None = None
        self.seconds_left: float | None = None

    def see(self, label: str, done: int, share: float, now: float) -> None:
        """Take in progress. done: steps of what `label` names; share: of all work, in [0, 1]; now: of a monotonic clock, seconds.

        Starts anew where the share falls, as when the data are read once more.
        """
        if self._first is None or share < self._share:
            self._first, self._steps, self.per_second, self.seconds_left = (now, share), 0, None, None
        else:
            self._steps += done - self._done if label == self._label else done
        self._label, self._done, self._share = label, done, share
        began, before = self._first
        if now - began >= _LEAST and share > before:
            self.per_second = self._steps / (now - began)
            self.seconds_left = (now - began) / (share - before) * (1 - share)
