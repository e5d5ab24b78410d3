"""The only place that catches errors: one sentence on stderr and an exit code. And the flags that every command has."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import click

from dmq_cli.errors import ConfigError, DiskError, DmqError, must_be_given, nearest

_FREE = "free some space or choose another folder, then run the same command again."
_NAME = "give the name of a new file in a folder that can be written, then run the same command again."
_DISK = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.ENOTDIR, errno.EPERM), _FREE),
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG), _NAME),
}
# Others than the disk raise these, too: only with a path.
_NAMED = (errno.EPERM, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG)


def with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds -v, -q and --json."""
    command = click.option("--json", is_flag=True, help="Print the result as one line of JSON.")(command)
    command = click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")(command)
    return click.option("-v", "--verbose", is_flag=True, help="Say more.")(command)


def guarded(action: Callable[[], None], as_json: bool = False) -> int:
    """Run the action; 0, or the exit code of the error after one sentence about it on stderr."""
    try:
        action()
    except KeyboardInterrupt:
        return _say("Interrupted; what was finished is kept, the same command goes on from there.", 1, as_json, {})
    except Exception as error:
        if (sentence := told(error)) is None:
            raise
        return _say(*sentence, as_json, error.found if isinstance(error, DmqError) else {})
    return 0


def told(error: Exception) -> tuple[str, int] | None:
    """The sentence about an error and its exit code; None for one that is neither the user's nor the disk's."""
    if isinstance(error, DmqError):
        return str(error), error.exit_code
    if type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):  # some of Hydra's are OSErrors, too
        return _hydra_sentence(error), ConfigError.exit_code
    return (_disk_sentence(error), DiskError.exit_code) if isinstance(error, OSError) and _of_the_disk(error) else None


def _of_the_disk(error: OSError) -> bool:
    """Whether a path that was given, or the disk, is to blame. A file that lacks in a folder that is there may be a bug."""
    if error.errno == errno.ENOENT and (not error.filename or os.path.isdir(os.path.dirname(error.filename) or ".")):
        return False
    return error.errno in _DISK and (bool(error.filename) or error.errno not in _NAMED)


def _disk_sentence(error: OSError) -> str:
    """filename2 is where a finished file was to be moved to: the name that people gave."""
    name = error.filename2 or error.filename
    return f"{error.strerror}{f' at {name}' if name else ''}; {_DISK[error.errno or 0]}"


def _hydra_sentence(error: Exception) -> str:
    """What Hydra says, in one line; for a key that does not exist, the keys that do."""
    if type(error).__name__ == "MissingMandatoryValue":
        return must_be_given(str(getattr(error, "full_key", "")))
    text = " ".join(str(error).split()).split(" Config search path:")[0]
    if (override := getattr(error, "override", None)) is not None:
        return f"{override} could not be read ({text})."
    parent = getattr(error.__cause__, "parent_node", None)
    if text.startswith("Could not override") and parent is not None:
        key = str(getattr(error.__cause__, "full_key", ""))
        return f"There is no {key} in the configuration.{nearest(key.rpartition('.')[2], map(str, parent.keys()))}"
    return text


def _say(sentence: str, code: int, as_json: bool, found: Mapping[str, object]) -> int:
    if as_json:
        click.echo(json.dumps({**found, "error": sentence, "exit_code": code}))
    click.echo(f"Error: {sentence}", err=True)
    return code
