"""Check which classes a configuration names: a `_target_` is code that runs, so it is checked before anything is made.

A configuration composed on the command line is trusted. One read from a folder may be a stranger's: of it only classes that the
package's own conf/ names are made, and those that the caller trusts by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.paths import conf_folder

_NAMED = re.compile(r"""_target_["']?\s*:\s*["']?([\w.]+)""")
_GETTERS = {f"hydra.utils.get_{kind}" for kind in ("class", "method", "object", "static_method")}
_trusted: ContextVar[frozenset[str]] = ContextVar("trusted", default=frozenset())


@cache
def allowed() -> frozenset[str]:
    """Every `_target_` in the YAML files of the package's conf/, except those of Hydra's own groups."""
    folder = conf_folder()
    files = (file for file in folder.rglob("*.yaml") if file.relative_to(folder).parts[0] != "hydra")
    return frozenset(name for file in files for name in _NAMED.findall(file.read_text(encoding="utf-8")))


def targets_of(section: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (key, dotted name) of all that instantiating a section would look up, in mappings and lists at any depth."""
    children: Iterable[tuple[Any, Any]] = ()
    if isinstance(section, Mapping):
        children = section.items()
        if "_target_" in section:
            yield _at(place, "_target_"), section["_target_"]
            if section["_target_"] in _GETTERS and "path" in section:
                yield _at(place, "path"), section["path"]
    elif isinstance(section, list | tuple):
        children = enumerate(section)
    for key, value in children:
        yield from targets_of(value, _at(place, str(key)))


def check_targets(section: Any, names: frozenset[str], place: str = "") -> None:
    """Raise ConfigError for a `_target_`, at any depth, that is not one of `names`, and for an interpolation.

    A resolved configuration has no interpolation left; Hydra would resolve one, and read the environment by it.
    """
    for where, target in targets_of(section, place):
        if not isinstance(target, str) or target not in names:
            raise ConfigError(
                f"{where} names {_shown(target)}, which is no class that dmq's own configuration names, so it"
                " was not run; read its source, and only if you trust it load the run with dmq_cli.load(run, trusted=[its name])."
            )
    for where, text in _strings(section, place):
        if "${" in text:
            raise ConfigError(
                f"{where} is {_shown(text)}, an interpolation, and these are resolved on the command line only; write the value."
            )


def check_makeable(section: Any) -> None:
    """check_targets against the package's own targets and the trusted ones."""
    check_targets(section, allowed() | _trusted.get())


def trust(config: Any) -> None:
    """Trust all classes that this configuration names, from now on. config: composed by the user, never read from a folder."""
    _trusted.set(_trusted.get() | frozenset(name for _, name in targets_of(config) if isinstance(name, str)))


@contextmanager
def trusting(names: Iterable[str]) -> Iterator[None]:
    """Inside, trust these targets besides the package's own, and no others."""
    token = _trusted.set(frozenset(names))
    try:
        yield
    finally:
        _trusted.reset(token)


def _strings(section: Any, place: str) -> Iterator[tuple[str, str]]:
    if isinstance(section, str):
        yield place, section
    elif isinstance(section, Mapping):
        for key, value in section.items():
            yield from _strings(key, _at(place, f"a key, {key}"))
            yield from _strings(value, _at(place, str(key)))
    elif isinstance(section, list | tuple):
        for index, value in enumerate(section):
            yield from _strings(value, _at(place, str(index)))


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _shown(value: object) -> str:
    return repr(value)[:200]
