"""Turn errors into one sentence on stderr and an exit code, for every command; and the flags that every command has."""

from __future__ import annotations

import errno
import json
import os
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import click

from dmq_cli.errors import ConfigError, DiskError, DmqError, Stopped, must_be_given, nearest
from dmq_cli.printing import printable
from dmq_cli.store.files import ADVICE

_NAME = "give the name of a new file in a folder that can be written"
_DISK = {
    **ADVICE,
    errno.ENOTDIR: "choose another folder",
    **dict.fromkeys((errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG), _NAME),
}
_HYDRA = ("hydra", "omegaconf", "yaml", "antlr4")
_NO_CHOICE = re.compile(
    r"Could not find '(?P<group>[\w/]+)/(?P<name>[^']*)' Available options in '[\w/]+': (?P<known>.*)"
)
_LAUNCHERS = {"joblib": "joblib", "submitit_local": "slurm", "submitit_slurm": "slurm"}
# Errors of the disk only where they name a path: other code raises them, too.
_NAMED = (errno.EPERM, errno.EISDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG)


def with_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add -v, -q and --json to a command."""
    command = click.option("--json", is_flag=True, help="Print the result as one line of JSON.")(command)
    command = click.option("-q", "--quiet", is_flag=True, help="Say only what went wrong.")(command)
    return click.option("-v", "--verbose", is_flag=True, help="Say more.")(command)


def guarded(action: Callable[[], None], as_json: bool = False) -> int:
    """Run the action and return 0, or print one sentence about its error to stderr and return its exit code."""
    try:
        action()
    except Stopped as stop:
        stopped = f"Stopped by {stop}; what was finished is kept, the same command goes on from there."
        return _say(stopped, stop.exit_code, as_json, {})
    except KeyboardInterrupt:
        return _say("Interrupted; what was finished is kept, the same command goes on from there.", 1, as_json, {})
    except Exception as error:
        if (sentence := describe_error(error)) is None:
            raise
        return _say(*sentence, as_json, error.found if isinstance(error, DmqError) else {})
    return 0


def describe_error(error: Exception) -> tuple[str, int] | None:
    """Write the sentence about an error, with its exit code; None for one that neither the user nor the disk caused."""
    if isinstance(error, DmqError):
        return str(error), error.exit_code
    if _of_hydra(error):  # some of Hydra's are OSErrors, too
        return _hydra_sentence(error), ConfigError.exit_code
    return (_disk_sentence(error), DiskError.exit_code) if isinstance(error, OSError) and _of_the_disk(error) else None


def _of_hydra(error: Exception) -> bool:
    """Whether Hydra raised it: a class of its own, or a ValueError and the like about the user's words."""
    raised = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)][-1:]
    return any(str(name).partition(".")[0] in _HYDRA for name in (type(error).__module__, *raised))


def _of_the_disk(error: OSError) -> bool:
    """Whether the disk or a given path caused it. A missing file in an existing folder may be a bug and does not count."""
    if error.errno == errno.ENOENT and (not error.filename or os.path.isdir(os.path.dirname(error.filename) or ".")):
        return False
    return error.errno in _DISK and (bool(error.filename) or error.errno not in _NAMED)


def _disk_sentence(error: OSError) -> str:
    """Write the sentence about an error of the disk, naming the user's path: filename2, the target of a rename, if there is one."""
    name = error.filename2 or error.filename
    return (
        f"{error.strerror}{f' at {name}' if name else ''}; {_DISK[error.errno or 0]}, then run the same command again."
    )


def _hydra_sentence(error: Exception) -> str:
    """Write Hydra's message in one line; for a key that does not exist, the keys that do."""
    if type(error).__name__ == "MissingMandatoryValue":
        return must_be_given(str(getattr(error, "full_key", "")))
    text = " ".join(str(error).split()).split(" Config search path:")[0]
    if (match := _NO_CHOICE.search(text)) is not None:
        group, name, choices = match["group"], match["name"], match["known"].split()
        if group == "hydra/launcher" and name in _LAUNCHERS:
            return f"The launcher {name} is not installed; install it by: pip install 'dmq-cli[{_LAUNCHERS[name]}]'."
        return f"There is no {group} {name}.{nearest(name, choices)}"
    if (override := getattr(error, "override", None)) is not None:
        key, _, value = str(override).partition("=")
        return f"{override} could not be read ({text}); put the value into quotes inside of the shell's, as \"{key}='{value}'\"."
    parent = getattr(error.__cause__, "parent_node", None)
    if text.startswith("Could not override") and parent is not None:
        key = str(getattr(error.__cause__, "full_key", ""))
        last = key.rpartition(".")[2]
        same = [full for full in _keys(parent._get_root()) if full.rpartition(".")[2] == last]
        meant = f" Did you mean {min(same, key=lambda full: full.count('.'))}?" if same else ""
        return f"There is no {key} in the configuration.{meant or nearest(last, map(str, parent.keys()))}"
    return text


def _keys(node: Any, path: str = "") -> Iterator[str]:
    """Yield all keys below a node of OmegaConf, in full, except Hydra's own and those that only dmq train reads."""
    for name in node.keys() if hasattr(node, "keys") and not node._is_none() and not node._is_interpolation() else ():
        if not path and name in ("hydra", "train"):
            continue
        yield f"{path}{name}"
        yield from _keys(node._get_node(name), f"{path}{name}.")


def _say(sentence: str, code: int, as_json: bool, results: Mapping[str, object]) -> int:
    if as_json:
        click.echo(json.dumps({**results, "error": sentence, "exit_code": code}))
    click.echo(printable(f"Error: {sentence}"), err=True)
    return code
