"""Locks that vanish with their process (flock), and the process that holds one.

The file holds {"pid", "host", "since"} of the process that took the lock last; it means something only while the lock is held.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

_MOST = 4096  # bytes of a lock file that are looked at


@contextmanager
def opened(lock: Path) -> Iterator[int]:
    """Open a lock file; on leaving, give up the lock, if it was taken. Raises OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        release(descriptor)


def release(descriptor: int) -> None:
    """Give up the lock, if it was taken, and close its file."""
    # Closing alone would leave the lock with a child that was forked meanwhile.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Try to take the lock, and return whether it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sign(descriptor: int) -> None:
    """Write this process into the lock file, for those who wait; a full disk is ignored here and raises later."""
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)


def owner(descriptor: int) -> str:
    """Describe the process that holds the lock, as the end of a sentence; "" where the file does not name it."""
    try:
        who = json.loads(os.pread(descriptor, _MOST, 0))
        return f": process {int(who['pid'])} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""


def is_held(lock: Path) -> bool:
    """Whether a process holds a lock now, checked without writing; True where that cannot be checked."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        release(descriptor)
    return False
