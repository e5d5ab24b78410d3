"""What `_target_` names: found, or told in one sentence; and the code of what is not dmq's own, which is part of every key.

Somebody else's class is as much of what a stage computes as its settings are. Its hash is taken from the code that this process
runs: a source that was changed since it was imported is imported again before anything is computed.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
import time
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from pkgutil import iter_modules
from types import ModuleType
from typing import Any

from dmq_cli.errors import ConfigError, nearest
from dmq_cli.paths import PLUGINS, importing, own_folder, plugins
from dmq_cli.stages.sources import own_files, release
from dmq_cli.stages.targets import allowed, targets_of
from dmq_cli.store import digest, file_sha256

_MOST_NAMES = 40  # in a sentence
_STARTED = time.time()
_OWN = "dmq_plugin"

Code = dict[str, dict[str, str]]
"""By section and target: the hash of its source, or the version of what it is installed with."""


@dataclass(frozen=True)
class Part:
    """What a target names. code: as in Code, None for dmq's own; module: that it was reached through."""

    value: Any
    module: str
    code: str | None = None


_SEEN: dict[
    str, tuple[ModuleType | None, str]
] = {}  # the user's modules as they were imported, and the sha256 of their files then


def import_plugins() -> None:
    """Import the modules of all plugins, and dmq_plugin.py of the user's own folder: what they register is there from now on.

    Raises ConfigError for one that cannot be imported.
    """
    own = own_folder()
    names = [*plugins(), *([_OWN] if own is not None and (own / f"{_OWN}.py").is_file() else [])]
    with importing():
        for name in names:
            _import(PLUGINS, name, name)


def is_foreign(target: object) -> bool:
    """Whether a `_target_` is none of dmq's own."""
    return target is not None and not str(target).startswith("dmq_cli.")


def _is_known(target: object) -> bool:
    """Whether it is a class of dmq's that the package's conf/ names. Others may lead through dmq's modules to foreign code."""
    return isinstance(target, str) and not is_foreign(target) and target in allowed()


def code_of(config: Mapping[str, Any], sections: Iterable[str]) -> Code:
    """The code of these sections that is not dmq's own; nothing for a section without any. Raises what `resolve` raises.

    What the package's own conf/ names is not imported for this: it is dmq's, and importing it takes seconds.
    """
    found: Code = {}
    for section in sections:
        for key, target in targets_of(config.get(section), section):
            if not _is_known(target) and (code := resolve(key, target).code) is not None:
                found.setdefault(section, {})[target] = code
    return found


def resolve(key: str, target: Any) -> Part:
    """What a target names, with its code as this process runs it. key: where the configuration has it.

    Raises ConfigError for what does not exist, cannot be imported, or is code that no file holds.
    """
    with importing():
        return _resolved(key, target)


def _resolved(key: str, target: Any) -> Part:
    before, started = frozenset(sys.modules) if is_foreign(target) else frozenset(), time.time()
    part = _located(key, target)
    releases = [release(name) for name in (part.module, getattr(part.value, "__module__", None) or part.module)]
    if None not in releases:
        code = ", ".join(sorted({str(one) for one in releases} - {"dmq"}))
        return Part(part.value, part.module, code or None)
    files = own_files(_roots(part))
    if _is_stale(files, before, started):
        _forget({*files, *_SEEN})
        part = _located(key, target)
        files = own_files(_roots(part))
    hashes = {name: file_sha256(file) for name, file in files.items()}
    for name, sha256 in hashes.items():
        _try_import(name)  # now, not when a function gets there: the file may be another one by then
        _SEEN[name] = (sys.modules.get(name), sha256)
    return Part(part.value, part.module, digest(sorted(hashes.items())))


def _roots(part: Part) -> set[str]:
    """The modules that its code lies in: its own, those of its bases, and those that its module has got hold of."""
    bases = {base.__module__ for base in part.value.__mro__} if isinstance(part.value, type) else {part.module}
    values = vars(sys.modules[part.module]).values()
    names = {v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values}
    held = {name for name in names - {"__main__"} if isinstance(name, str) and name in sys.modules}
    return {part.module} | bases | held


def _is_stale(files: Mapping[str, Path], before: Collection[str], started: float) -> bool:
    """Whether a file may be another one than what was imported. before: the modules that were there at the time `started`."""
    loaded = {name for name in files if name in sys.modules}
    known = {name for name in loaded if name in _SEEN and _SEEN[name][0] is sys.modules[name]}
    if any(_SEEN[name][1] != file_sha256(files[name]) for name in known):
        return True
    since = started if (loaded - known).isdisjoint(before) else _STARTED
    return loaded != known and any(file.stat().st_mtime > since for file in files.values())


def _forget(names: Iterable[str]) -> None:
    """Take modules out of those that are imported, so that the next import reads their files."""
    for name in names:
        module, (parent, _, child) = sys.modules.pop(name, None), name.rpartition(".")
        if module is not None and getattr(sys.modules.get(parent), child, None) is module:
            delattr(sys.modules[parent], child)
    importlib.invalidate_caches()


@contextlib.contextmanager
def _without_bytecode() -> Iterator[None]:
    """A file that is changed twice in a second must not pass for what it was: Python's cache of bytecode looks at seconds."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _try_import(name: str) -> None:
    with contextlib.suppress(Exception, SystemExit), _without_bytecode():
        importlib.import_module(name)


def locate(key: str, target: Any) -> Part:
    """What a dotted name means to Hydra: attributes first, then modules. Raises ConfigError as `resolve`."""
    with importing():
        return _located(key, target)


def _located(key: str, target: Any) -> Part:
    names = target.split(".") if isinstance(target, str) else []
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        raise ConfigError(f"{key}={target} is no name of a class; write it as module.Class.")
    module = _import(key, target, names[0])
    if module is None:
        raise _missing_module(key, target, names[0], [one.name for one in iter_modules()])
    value: Any = module
    for count, name in enumerate(names[1:], 1):
        if not hasattr(value, name) and value is module:
            below = _import(key, target, ".".join(names[: count + 1]))
            if below is None:
                raise _missing(key, target, module, name, count == len(names) - 1)
        elif not hasattr(value, name):
            raise _missing(key, target, value, name, True)
        value = getattr(value, name)
        module = value if isinstance(value, ModuleType) else module
    if not callable(value):
        raise ConfigError(
            f"{key}={target} is a {type(value).__name__}, which makes nothing; name a class or a function."
        )
    return Part(value, module.__name__)


def _import(key: str, target: str, name: str) -> ModuleType | None:
    """None where there is no such module."""
    if (loaded := sys.modules.get(name)) is not None:
        return loaded
    try:
        with _without_bytecode():
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise ConfigError(
            f"{key}={target} could not be imported, as the module {name} raises {_told(error)}; mend it, or name another class."
        ) from error


def _told(error: BaseException) -> str:
    """`SyntaxError: invalid syntax (mine.py, line 3)`."""
    first = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = (
        ""
        if isinstance(error, SyntaxError) or not frames
        else f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    )
    return f"{type(error).__name__}{': ' if first else ''}{first}{place}"


def _missing(key: str, target: str, inside: Any, name: str, last: bool) -> ConfigError:
    """No such class, or on the way to it no such module."""
    below = [one.name for one in iter_modules(getattr(inside, "__path__", []))]
    if not last:
        return _missing_module(key, target, f"{inside.__name__}.{name}", [f"{inside.__name__}.{one}" for one in below])
    known = [one for one, value in vars(inside).items() if callable(value) and not one.startswith("_")]
    known = known if len(known) <= _MOST_NAMES else difflib.get_close_matches(name, known)
    told = nearest(name, known) if known else ""
    return ConfigError(f"{key}={target} was asked for, but {inside.__name__} has no {name}.{told}")


def _missing_module(key: str, target: str, name: str, known: Iterable[str]) -> ConfigError:
    close = difflib.get_close_matches(name, list(known), n=1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    return ConfigError(
        f"{key}={target} was asked for, but there is no module {name}{guess}; correct the name, or put the file into the"
        " working folder, into that of --config-dir or on PYTHONPATH."
    )
