"""Stop at SIGTERM and SIGUSR1, as clusters send before they take a machine away: at once, or when what is being written is written."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from dmq_cli.errors import Stopped

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class _State:
    finishing = False
    received = ""


@contextlib.contextmanager
def at_signals() -> Iterator[None]:
    """Inside, these signals raise Stopped; nothing where somebody else handles them, as submitit does in its jobs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ours = [number for number in _SIGNALS if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def finishing() -> Iterator[None]:
    """A signal that arrives inside raises Stopped at the end of the block."""
    _State.finishing = True
    try:
        yield
    finally:
        _State.finishing = False
    if _State.received:
        name, _State.received = _State.received, ""
        raise Stopped(name)


def _stop(number: int, _: FrameType | None) -> None:
    name = signal.Signals(number).name
    if not _State.finishing:
        raise Stopped(name)
    _State.received = name
