"""How a store excludes other processes: flock or leases, both behind the same functions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Protocol

from dmq_cli.errors import ConfigError
from dmq_cli.store import lease, locks
from dmq_cli.store.mounts import LOCAL, file_system

LOCKS = ("auto", "flock", "lease")
"""Values of `store.lock`."""


class Hold(Protocol):
    """A right that this process has, and others wait for, until it is released."""

    @property
    def token(self) -> str:
        """What no other holder has; "" where a holder never loses the right while it lives."""

    @property
    def earlier(self) -> Sequence[lease.Owner]:
        """Holders before this one, the last one last, whose folders were not seen to."""

    def check(self) -> None:
        """Raise ArtifactError if another process has taken over."""

    def settle(self) -> None:
        """Forget the earlier holders."""

    def release(self) -> None:
        """Give it up."""


def kind_of(setting: str, root: Path) -> str:
    """Choose flock or lease: for auto, lease where the file system of `root` is not known to be of one machine.

    Raises ConfigError for another setting.
    """
    if setting not in LOCKS:
        raise ConfigError(f"store.lock={setting} is not known; use {', '.join(LOCKS[:-1])} or {LOCKS[-1]}.")
    if setting != "auto":
        return setting
    return "flock" if file_system(root) in (None, *LOCAL) else "lease"


def take(kind: str, lock: Path) -> Hold | None:
    """Take the right named by a lock file's path; None where another process has it. kind: flock or lease."""
    return locks.take(lock) if kind == "flock" else lease.take(lease_of(lock))


def wait(kind: str, lock: Path, waiting: Callable[[str], object], silence: float = lease.SILENCE) -> Hold:
    """Take it when it is free. waiting: called before this waits, with the end of a sentence about the owner."""
    return locks.wait(lock, waiting) if kind == "flock" else lease.wait(lease_of(lock), waiting, silence)


def is_held(lock: Path) -> bool:
    """Whether a process has the right now, as far as one look can tell, whichever kind it is. Writes nothing."""
    return locks.is_held(lock) or lease.is_held(lease_of(lock))


@contextmanager
def kept_free(kind: str, lock: Path) -> Iterator[bool]:
    """Whether nobody has the right, of this kind or of one that was used here before; in the block nobody gets it then."""
    kinds = [kind]
    kinds += [other for other, path in (("flock", lock), ("lease", lease_of(lock))) if other != kind and path.exists()]
    with ExitStack() as holds:
        for each in kinds:
            hold = take(each, lock)
            if hold is None:
                break
            holds.callback(hold.release)
        else:
            yield True
            return
        yield False


def lease_of(lock: Path) -> Path:
    """The folder of owner files that stands for a lock file: .lease-<key> for .lock-<key>."""
    return lock.with_name(lock.name.replace(".lock", ".lease", 1))
