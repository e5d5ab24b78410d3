"""Find what `_target_` names, or raise one sentence; and hash the code that is not dmq's own, which is part of every key.

A foreign class decides what a stage computes as much as its settings do. Its hash is that of the code this process runs: a source
changed since it was imported is imported again before anything is computed.
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
from dmq_cli.models.role_patterns import REGISTERED
from dmq_cli.obtain import find_network
from dmq_cli.paths import PLUGINS, importing, own_folder, plugins
from dmq_cli.paths import resolve as resolve_path
from dmq_cli.stages.sources import own_files, release
from dmq_cli.stages.targets import allowed, targets_of
from dmq_cli.store import digest, file_sha256, read_json

_MOST_NAMES = 40  # in a sentence
_STARTED = time.time()
_PLUGIN_MODULE = "dmq_plugin"

Code = dict[str, dict[str, str]]
"""By section and target: the hash of its source, or name and version of the distribution that installed it."""


@dataclass(frozen=True)
class Part:
    """The object that a target names. code: as in Code, None for dmq's own; module: the one it was reached through."""

    value: Any
    module: str
    code: str | None = None


_SEEN: dict[
    str, tuple[ModuleType | None, str]
] = {}  # the user's modules as they were imported, and the sha256 of their files then


def import_plugins() -> None:
    """Import the modules of all plugins, and dmq_plugin.py of the user's own folder, which register their parts.

    Raises ConfigError for one that cannot be imported.
    """
    folder = own_folder()
    names = [
        *plugins(),
        *([_PLUGIN_MODULE] if folder is not None and (folder / f"{_PLUGIN_MODULE}.py").is_file() else []),
    ]
    with importing():
        for name in names:
            _import(PLUGINS, name, name)


def is_foreign(target: object) -> bool:
    """Whether a `_target_` is not dmq's own."""
    return target is not None and not str(target).startswith("dmq_cli.")


def _is_known(target: object) -> bool:
    """Whether the package's conf/ names this class of dmq's. Other paths may lead through dmq's modules to foreign code."""
    return isinstance(target, str) and not is_foreign(target) and target in allowed()


def code_of(config: Mapping[str, Any], sections: Iterable[str]) -> Code:
    """Hash the foreign code of these sections; a section without any has no entry. Raises what `resolve` raises.

    Classes that the package's own conf/ names are dmq's, and are not imported for this, which would take seconds. The code of a
    model is that of its family, where a plugin registered it.
    """
    code_by_section: Code = {}
    for section in sections:
        for key, target in targets_of(config.get(section), section):
            if not _is_known(target) and (code := resolve(key, target).code) is not None:
                code_by_section.setdefault(section, {})[target] = code
        if section == "model" and (family := _family_code(config["model"])):
            code_by_section[section] = {**code_by_section.get(section, {}), **family}
    return code_by_section


def _family_code(model: Mapping[str, Any]) -> dict[str, str]:
    """Hash the network and the adapter of a model whose family was registered, by class; {} for a family of dmq's own."""
    if not REGISTERED or not model.get("path"):
        return {}
    from dmq_cli.models.families import family_of

    folder = find_network(resolve_path(model["path"]))
    family = None if folder is None else family_of(read_json(folder / "config.json"))
    if family is None or family.name not in REGISTERED:
        return {}
    names = [f"{kind.__module__}.{kind.__qualname__}" for kind in (family.kind, family.adapter)]
    codes = {name: resolve("model", name).code for name in names}
    return {name: code for name, code in codes.items() if code is not None}


def resolve(key: str, target: Any) -> Part:
    """Find what a target names, with its code as this process runs it. key: where the configuration has it.

    Raises ConfigError for what does not exist, cannot be imported, or has no source file.
    """
    with importing():
        return _resolved(key, target)


def _resolved(key: str, target: Any) -> Part:
    before, started = frozenset(sys.modules) if is_foreign(target) else frozenset(), time.time()
    part = _located(key, target)
    releases = [release(name) for name in (part.module, getattr(part.value, "__module__", None) or part.module)]
    if None not in releases:
        code = ", ".join(sorted({str(installed) for installed in releases} - {"dmq"}))
        return Part(part.value, part.module, code or None)
    files = own_files(_roots(part))
    if _is_stale(files, before, started):
        _forget({*files, *_SEEN})
        part = _located(key, target)
        files = own_files(_roots(part))
    hashes = {name: file_sha256(file) for name, file in files.items()}
    for name, sha256 in hashes.items():
        _try_import(name)  # now, not when a function imports it: the file may have changed by then
        _SEEN[name] = (sys.modules.get(name), sha256)
    return Part(part.value, part.module, digest(sorted(hashes.items())))


def _roots(part: Part) -> set[str]:
    """Find the modules of its code: its own, those of its base classes, and those of every object in its module."""
    bases = {base.__module__ for base in part.value.__mro__} if isinstance(part.value, type) else {part.module}
    values = vars(sys.modules[part.module]).values()
    names = {v.__name__ if isinstance(v, ModuleType) else getattr(v, "__module__", None) for v in values}
    used = {name for name in names - {"__main__"} if isinstance(name, str) and name in sys.modules}
    return {part.module} | bases | used


def _is_stale(files: Mapping[str, Path], before: Collection[str], started: float) -> bool:
    """Whether a file may have changed since it was imported. before: the modules imported at the time `started`."""
    loaded = {name for name in files if name in sys.modules}
    recorded = {name for name in loaded if name in _SEEN and _SEEN[name][0] is sys.modules[name]}
    if any(_SEEN[name][1] != file_sha256(files[name]) for name in recorded):
        return True
    since = started if (loaded - recorded).isdisjoint(before) else _STARTED
    return loaded != recorded and any(file.stat().st_mtime > since for file in files.values())


def _forget(names: Iterable[str]) -> None:
    """Take modules out of those that are imported, so that the next import reads their files."""
    for name in names:
        module, (parent, _, child) = sys.modules.pop(name, None), name.rpartition(".")
        if module is not None and getattr(sys.modules.get(parent), child, None) is module:
            delattr(sys.modules[parent], child)
    importlib.invalidate_caches()


@contextlib.contextmanager
def _without_bytecode() -> Iterator[None]:
    """Import without Python's bytecode cache, which compares seconds and misses a second change within one."""
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        yield
    finally:
        sys.dont_write_bytecode = before


def _try_import(name: str) -> None:
    with contextlib.suppress(Exception, SystemExit), _without_bytecode():
        importlib.import_module(name)


def locate(key: str, target: Any) -> Part:
    """Find a dotted name as Hydra does: attributes first, then modules. Raises ConfigError as `resolve`."""
    with importing():
        return _located(key, target)


def _located(key: str, target: Any) -> Part:
    names = target.split(".") if isinstance(target, str) else []
    if len(names) < 2 or not all(name.isidentifier() for name in names):
        raise ConfigError(f"{key}={target} is no name of a class; write it as module.Class.")
    module = _import(key, target, names[0])
    if module is None:
        raise _missing_module(key, target, names[0], [importable.name for importable in iter_modules()])
    value: Any = module
    for count, name in enumerate(names[1:], 1):
        if hasattr(value, name):
            value = getattr(value, name)
        elif value is not module:
            raise _missing(key, target, value, name, True)
        else:  # the module itself: its package does not know it where that was imported again since
            value = _import(key, target, ".".join(names[: count + 1]))
            if value is None:
                raise _missing(key, target, module, name, count == len(names) - 1)
        module = value if isinstance(value, ModuleType) else module
    if not callable(value):
        raise ConfigError(
            f"{key}={target} is a {type(value).__name__}, which makes nothing; name a class or a function."
        )
    return Part(value, module.__name__)


def _import(key: str, target: str, name: str) -> ModuleType | None:
    """Import a module; None where it does not exist. Raises ConfigError where importing it fails."""
    if (loaded := sys.modules.get(name)) is not None:
        return loaded
    try:
        with _without_bytecode():
            return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name == name:
            return None
        raise ConfigError(
            f"{key}={target} could not be imported, as the module {name} raises {_describe_error(error)}; mend it, or name another class."
        ) from error


def _describe_error(error: BaseException) -> str:
    """Shorten an error to one line: `SyntaxError: invalid syntax (mine.py, line 3)`."""
    first = (str(error).splitlines() or [""])[0].strip().rstrip(".")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    place = (
        ""
        if isinstance(error, SyntaxError) or not frames
        else f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
    )
    return f"{type(error).__name__}{': ' if first else ''}{first}{place}"


def _missing(key: str, target: str, inside: Any, name: str, last: bool) -> ConfigError:
    """Make the error for a class that does not exist, or for a module on the way to it."""
    below = [submodule.name for submodule in iter_modules(getattr(inside, "__path__", []))]
    if not last:
        return _missing_module(
            key, target, f"{inside.__name__}.{name}", [f"{inside.__name__}.{submodule}" for submodule in below]
        )
    names = [member for member, value in vars(inside).items() if callable(value) and not member.startswith("_")]
    names = names if len(names) <= _MOST_NAMES else difflib.get_close_matches(name, names)
    hint = nearest(name, names) if names else ""
    return ConfigError(f"{key}={target} was asked for, but {inside.__name__} has no {name}.{hint}")


def _missing_module(key: str, target: str, name: str, names: Iterable[str]) -> ConfigError:
    close = difflib.get_close_matches(name, list(names), n=1)
    guess = f" (did you mean {close[0]}?)" if close else ""
    return ConfigError(
        f"{key}={target} was asked for, but there is no module {name}{guess}; correct the name, or put the file into the"
        " working folder, into that of --config-dir or on PYTHONPATH."
    )
