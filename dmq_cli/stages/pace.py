"""How fast a stage goes, and how long what is left of it takes if it goes on like that."""

from __future__ import annotations

_SURE = 2.0  # seconds, before which a pace is chance


class Pace:
    """Counts steps and shares of work as they come in. What was there at the first one, of an attempt that was killed, does not count."""

    def __init__(self) -> None:
        self._first: tuple[float, float] | None = None  # when, and the share then
        self._steps, self._done, self._label, self._share = 0, 0, "", 0.0
        self.per_second: float | None = None
        self.seconds_left: float | None = None

    def see(self, label: str, done: int, share: float, now: float) -> None:
        """done: steps of what `label` names; share: of all work, in [0, 1]; now: seconds, of a clock that never goes back.

        Starts anew where the share falls, as where data are gone through once more.
        """
        if self._first is None or share < self._share:
            self._first, self._steps, self.per_second, self.seconds_left = (now, share), 0, None, None
        else:
            self._steps += done - self._done if label == self._label else done
        self._label, self._done, self._share = label, done, share
        began, before = self._first
        if now - began >= _SURE and share > before:
            self.per_second = self._steps / (now - began)
            self.seconds_left = (now - began) / (share - before) * (1 - share)
