"""Locks that vanish with their process (flock), and the process that holds one.

The file holds {"pid", "host", "since"} of the process that took the lock last; it means something only while the lock is held.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from dmq_cli.errors import ArtifactError
from dmq_cli.store.lease import Owner

_MOST = 4096  # bytes of a lock file that are looked at
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)


class Flock:
    """A lock that was taken. As long as its process lives nobody takes it over, so that there is nothing to check."""

    token = ""
    earlier: Sequence[Owner] = ()

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def check(self) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def release(self) -> None:
        """Give up the lock."""
        _release(self._descriptor)


def take(lock: Path) -> Flock | None:
    """Take a lock; None where another process has it. Raises ArtifactError on a file system without locks; OSError."""
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        is_free = _try_lock(descriptor, lock)
    except BaseException:
        _release(descriptor)
        raise
    if not is_free:
        _release(descriptor)
        return None
    _sign(descriptor)
    return Flock(descriptor)


def wait(lock: Path, waiting: Callable[[str], object]) -> Flock:
    """Take a lock when it is free. waiting: called before this waits, with the end of a sentence about the owner. Raises as `take`."""
    if (flock := take(lock)) is not None:
        return flock
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        waiting(_owner(descriptor))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _sign(descriptor)
    except BaseException:
        _release(descriptor)
        raise
    return Flock(descriptor)


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
        _release(descriptor)
    return False


def _release(descriptor: int) -> None:
    """Give up the lock, if it was taken, and close its file."""
    # Closing alone would leave the lock with a child that was forked meanwhile.
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


def _try_lock(descriptor: int, lock: Path) -> bool:
    """Try to take the lock, and return whether it was free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise ArtifactError(
            f"{lock} was to be locked, but its file system has no locks ({error.strerror}): use store.lock=lease."
        ) from error
    return True


def _sign(descriptor: int) -> None:
    """Write this process into the lock file, for those who wait; a full disk is ignored here and raises later."""
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%Y-%m-%d %H:%M:%S}"}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(who).encode(), 0)


def _owner(descriptor: int) -> str:
    """Describe the process that holds the lock, as the end of a sentence; "" where the file does not name it."""
    try:
        who = json.loads(os.pread(descriptor, _MOST, 0))
        return f": process {int(who['pid'])} on {who['host']}, since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""
