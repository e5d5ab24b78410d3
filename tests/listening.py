"""Hearing of every file that this process opens, makes, moves or removes, and refusing it, as a kill would."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Listener = Callable[[str, tuple[Any, ...]], None]
_listeners: list[Listener] = []
_hooked: list[bool] = []


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Call the listener with the name and arguments of every audit event; what it raises, the call raises.

    An audit hook cannot be taken away again, so that there is one for all tests.
    """
    if not _hooked:
        _hooked.append(True)
        sys.addaudithook(lambda name, arguments: [heard(name, arguments) for heard in _listeners] and None)
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class Killed(BaseException):
    """Stands for the end of the process."""


class Killer:
    """Raises Killed at the count-th writing event below a folder, and at every one after it: nothing is cleaned up."""

    def __init__(self, below: object, count: int) -> None:
        self.below, self.left, self.log = str(below), count, list[str]()

    def __call__(self, name: str, arguments: tuple[Any, ...]) -> None:
        """One event."""
        moving = name in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")
        writing = name == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if (moving or writing) and str(arguments[0]).startswith(self.below):
            self.left -= 1
            self.log.append(f"{name} {str(arguments[0]).rpartition('/')[2]}")
            if self.left <= 0:
                raise Killed
