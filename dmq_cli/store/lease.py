"""Leases: a right that one process on all machines holds, by a file that it renews, for file systems where flock is per machine.

    <place>/<number>    an owner file: token, process, host, since, beat. The highest number is the owner.

A lease is taken by linking a new file to the next number, which only one process can do. It is free where the owner wrote that it
gave it back, or where it was silent: its beat stayed the same while a waiting process watched for `silence` seconds of its own
monotonic clock, so that clocks of machines are never compared. An owner that was only stopped finds a higher number when it comes
back (`Lease.check`); so a takeover that was wrong costs work and no result. The highest file stays: numbers only grow.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Protocol

from dmq_cli.errors import ArtifactError

SILENCE = 120.0
"""Seconds without a beat after which another process takes over: twice the time for which NFS may remember folders."""
_BEATS = 8  # in that time
_SIZE = 512  # bytes of an owner file, so that each beat replaces all of them
_CERTAIN = 5  # silences, after which one look is enough for those who only ask
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)


@dataclass(frozen=True)
class Owner:
    """What an owner file holds. token: of this attempt alone; silence: seconds in which it will have renewed the file."""

    token: str
    pid: int
    host: str
    since: str
    silence: float
    beat: int = 0
    given_back: bool = False

    def encode(self) -> bytes:
        """The file's bytes, of one size."""
        return json.dumps(asdict(self)).encode().ljust(_SIZE)

    def describe(self) -> str:
        """Name the process, as a sentence does."""
        return f"process {self.pid} on {self.host}, since {self.since}"


def decode(content: bytes) -> Owner | None:
    """Read an owner file; None for anything else."""
    try:
        owner = Owner(**json.loads(content))
        return owner if owner.silence > 0 and owner.token.isalnum() else None
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


class OwnerFile(Protocol):
    """The file of one owner, in its own hands."""

    def write(self, content: bytes) -> None:
        """Replace the content, for all machines to see. Raises OSError."""

    def close(self) -> None:
        """Keep it, but write no more."""


class Owners(Protocol):
    """The owner files of one lease. Each call is one step that a kill or another machine may come before or after."""

    def numbers(self) -> list[int]:
        """The numbers that exist, sorted."""

    def read(self, number: int) -> bytes:
        """The content as it is now; b"" where there is no such number."""

    def create(self, number: int, content: bytes) -> OwnerFile | None:
        """Make a number with its content, in one step; None where it exists."""

    def remove(self, number: int) -> None:
        """Remove a number, if it exists."""


class SilenceWatch:
    """Observes an owner for as long as it takes to call it silent. clock: seconds, of this process alone."""

    def __init__(self, owners: Owners, clock: Callable[[], float]) -> None:
        self._owners, self._clock = owners, clock
        self._seen: tuple[int, bytes] | None = None
        self._silent = self._last = 0.0

    def is_free(self, number: int) -> bool:
        """Look once more. A pause between looks counts as a beat at most: this process itself may have been stopped."""
        before = self._clock()
        content = self._owners.read(number)
        owner = decode(content)
        if owner is not None and owner.given_back:
            return True
        silence = SILENCE if owner is None else owner.silence
        if (number, content) == self._seen:
            self._silent += min(before - self._last, silence / _BEATS)
        else:
            self._seen, self._silent = (number, content), 0.0
        self._last = self._clock()
        return self._silent >= silence


class Lease:
    """A lease that was taken. earlier: the owners before, the last one last, as long as their files exist."""

    def __init__(self, owners: Owners, owner: Owner, number: int, file: OwnerFile) -> None:
        self._owners, self._owner, self._number, self._file = owners, owner, number, file
        self._lower = [other for other in owners.numbers() if other < number]
        decoded = [decode(owners.read(other)) for other in self._lower]
        self.earlier: Sequence[Owner] = [other for other in decoded if other is not None]
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="lease", daemon=True)

    @property
    def token(self) -> str:
        """What no other owner has."""
        return self._owner.token

    def keep_alive(self) -> None:
        """Renew it from now on, in a thread."""
        self._thread.start()

    def beat(self) -> None:
        """Renew it once. Raises OSError."""
        self._owner = replace(self._owner, beat=self._owner.beat + 1)
        self._file.write(self._owner.encode())

    def check(self) -> None:
        """Raise ArtifactError if another process has taken over, or the file is gone."""
        numbers = self._owners.numbers()
        owner = decode(self._owners.read(self._number))
        if owner is not None and owner.token == self.token and numbers and numbers[-1] == self._number:
            return
        other = decode(self._owners.read(numbers[-1])) if numbers else None
        reason = "its file is gone" if other is None else f"{other.describe()}, took over"
        raise ArtifactError(
            f"This process was silent for more than {self._owner.silence:g} s or lost its folder, and no longer has the right to"
            f" write what it computed ({reason}): run the same command again, it goes on from what is there."
        )

    def settle(self) -> None:
        """Forget the earlier owners, when what they left was seen to."""
        for number in self._lower:
            self._owners.remove(number)

    def release(self) -> None:
        """Give it back; where that cannot be written, others wait for the silence. Not from a forked child."""
        if self._owner.pid != os.getpid() or self._end.is_set():
            return
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()
        with suppress(OSError):
            self._file.write(replace(self._owner, given_back=True).encode())
        self._file.close()

    def _beat_on(self) -> None:
        while not self._end.wait(self._owner.silence / _BEATS):
            with suppress(OSError):  # of a full disk, or of a folder that is gone: `check` is what decides
                self.beat()


def attempt(owners: Owners, owner: Owner, is_free: Callable[[int], bool]) -> Lease | None:
    """Try once to take a lease; None where it is held. is_free: whether that number, the highest, may be followed."""
    highest = max(owners.numbers(), default=0)
    if highest and not is_free(highest):
        return None
    file = owners.create(highest + 1, owner.encode())
    if file is None:
        return None
    if max(owners.numbers(), default=0) != highest + 1:  # others came and went since the numbers were read
        owners.remove(highest + 1)
        file.close()
        return None
    return Lease(owners, owner, highest + 1, file)


class OwnerFiles:
    """Owners in a folder, which need not exist."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def numbers(self) -> list[int]:
        """See Owners."""
        try:
            return sorted(int(name) for name in os.listdir(self.place) if name.isdecimal())
        except FileNotFoundError:
            return []

    def read(self, number: int) -> bytes:
        """See Owners. Opened anew each time: that is when NFS asks the server."""
        try:
            return (self.place / str(number)).read_bytes()[:_SIZE]
        except OSError:
            return b""

    def create(self, number: int, content: bytes) -> OwnerFile | None:
        """See Owners. Raises ArtifactError on a file system without hard links; OSError."""
        self.place.mkdir(exist_ok=True)
        private, public = self.place / f".{secrets.token_hex(8)}.tmp", self.place / str(number)
        file = _Open(private)
        try:
            file.write(content)
            with suppress(FileExistsError):
                os.link(private, public)
            if file.is_at(public):  # asked for, as NFS may link and then say that there was such a file
                return file
        except OSError as error:
            file.close()
            if error.errno in _NO_LINKS:
                raise ArtifactError(
                    f"store.lock=lease needs hard links, which the file system of {self.place} refuses ({error.strerror}): use"
                    " store.lock=flock and one machine at a time, or another folder with runtime.outputs."
                ) from error
            raise
        finally:
            private.unlink(missing_ok=True)
        file.close()
        return None

    def remove(self, number: int) -> None:
        """See Owners."""
        (self.place / str(number)).unlink(missing_ok=True)


class _Open:
    """An owner file through its descriptor: after a takeover it never writes to another's file."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)

    def write(self, content: bytes) -> None:
        os.pwrite(self._descriptor, content, 0)
        os.fsync(self._descriptor)

    def is_at(self, path: Path) -> bool:
        try:
            return os.path.samestat(os.fstat(self._descriptor), path.stat())
        except FileNotFoundError:
            return False

    def close(self) -> None:
        os.close(self._descriptor)


def take(place: Path, silence: float = SILENCE) -> Lease | None:
    """Take the lease at `place`; None where it `is_held`. Raises as `wait`."""
    lease = attempt(OwnerFiles(place), _this_process(silence), lambda number: not is_held(place))
    if lease is not None:
        lease.keep_alive()
    return lease


def wait(place: Path, waiting: Callable[[str], object], silence: float = SILENCE) -> Lease:
    """Take the lease at `place` when it is free. waiting: called before this waits, with the end of a sentence about the owner.

    silence: in which this process, as owner, promises a beat. Raises ArtifactError as OwnerFiles.create; OSError.
    """
    owners, owner = OwnerFiles(place), _this_process(silence)
    watch, pause = SilenceWatch(owners, time.monotonic), 0.01
    lease = attempt(owners, owner, watch.is_free)
    if lease is None:
        waiting(_described(owners))
    while lease is None:
        time.sleep(pause)
        pause = min(1.5 * pause, silence / _BEATS / 4)
        lease = attempt(owners, owner, watch.is_free)
    lease.keep_alive()
    return lease


def _this_process(silence: float) -> Owner:
    return Owner(
        secrets.token_hex(4), os.getpid(), socket.gethostname(), f"{datetime.now():%Y-%m-%d %H:%M:%S}", silence
    )


def _described(owners: Owners) -> str:
    owner = decode(owners.read(max(owners.numbers(), default=0)))
    return "" if owner is None else f": {owner.describe()}; after {owner.silence:g} s of silence this one takes over"


def is_held(place: Path) -> bool:
    """Whether a process holds a lease now, as far as one look can tell; True where that cannot be checked. Writes nothing.

    Its file's time is compared with this machine's clock, which may be minutes off: who relies on it must take the lease.
    """
    owners = OwnerFiles(place)
    try:
        number = max(owners.numbers(), default=0)
        owner = decode(owners.read(number))
        if number == 0 or (owner is not None and owner.given_back):
            return False
        age = time.time() - (place / str(number)).stat().st_mtime
        return age < _CERTAIN * (SILENCE if owner is None else owner.silence)
    except OSError:
        return True
