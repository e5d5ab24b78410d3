"""The keys that are read: those of conf/, parameters of constructors, and keys that other values refer to."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.paths import choice_files, conf_folder

Shape = Mapping[str, Any]
"""Keys of a section, each with the shape below it; ANY: all keys below are read."""

ANY: Shape = {"*": None}
_FREE = ("model.expects", "table.columns", "table.parts", "table.claims", "table.notes")  # keys are data there
_CHOSEN = ("model", "method", "bits", "budget", "table", "train")  # sections that are no object's arguments
_INSIDE = ("metric", "subject")  # groups whose choices are parts of another section
_REFERENCE = re.compile(r"\$\{(\.*)([\w.\[\]]+)\}")


def unread(config: Mapping[str, Any], sections: Collection[str] | None = None) -> Iterator[str]:
    """Yield every key that nothing reads, in full. config: composed, plain, its interpolations not resolved.

    sections: the only ones whose keys are checked; None: all.
    """
    referred = set(_references(config))
    checked = {name: value for name, value in config.items() if sections is None or name in sections}
    for key in _section(checked, "", _base() | dict.fromkeys(groups(), ANY)):
        if not any(key == reference or key.startswith(f"{reference}.") for reference in referred):
            yield key


def _section(node: Any, path: str, shape: Shape) -> Iterator[str]:
    if isinstance(node, list):
        for number, item in enumerate(node):
            yield from _section(item, f"{path}.{number}", ANY)
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        names = parameters(str(node["_target_"]))
        shape = ANY if names is None else dict.fromkeys(names, ANY)
    elif path in _CHOSEN:
        shape = _united(_base().get(path, {}), _chosen(path, str(node.get("name")), set(node)))
    for name, child in node.items():
        key = f"{path}.{name}" if path else str(name)
        if "_target_" in node and str(name).startswith("_"):  # Hydra's own
            continue
        if shape is not ANY and name not in shape:
            yield from _leaves(child, key)
        else:
            yield from _section(child, key, ANY if shape is ANY or key in _FREE else shape[name])


def _leaves(node: Any, path: str) -> Iterator[str]:
    """Yield the keys of an unknown section, or its own if it is a value."""
    if isinstance(node, Mapping) and node:
        for name, child in node.items():
            yield from _leaves(child, f"{path}.{name}")
    else:
        yield path


def groups() -> list[str]:
    """The groups of conf/ whose choice fills the section of the same name."""
    excluded = ("hydra", *_INSIDE)
    return sorted(folder.name for folder in conf_folder().iterdir() if folder.is_dir() and folder.name not in excluded)


def choices(group: str) -> list[str]:
    """The choices of a group, sorted."""
    return list(choice_files(group))


@cache
def parameters(target: str) -> tuple[str, ...] | None:
    """The parameters of `_target_` by name; None if it takes any, or has no signature: making it raises the better error."""
    from dmq_cli.stages.plugins import locate

    try:
        taken = inspect.signature(locate(target, target).value).parameters.values()
    except (ConfigError, TypeError, ValueError):  # the last two: of what has no signature
        return None
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in taken):
        return None
    return tuple(parameter.name for parameter in taken)


def section_of(group: str, name: str) -> dict[str, Any]:
    """The section in a group's file, without its defaults list; {} if there is no such file."""
    file = choice_files(group).get(name)
    return {} if file is None else _section_in(file, group)


def _section_in(file: Path, group: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    content.pop("defaults", None)
    inner: dict[str, Any] = content.get(group, content)  # of a file that fills the whole configuration
    return inner


def top_keys() -> list[str]:
    """Every key of conf/config.yaml outside of Hydra, in full, sorted: seeds, runtime.threads."""
    return sorted(key for key in _paths(_base()) if not key.startswith("hydra"))


def _paths(shape: Shape, above: str = "") -> Iterator[str]:
    for name, below in shape.items():
        key = f"{above}.{name}" if above else name
        yield from _paths(below, key) if below else (key,)


@cache
def _base() -> dict[str, Any]:
    """The keys of conf/config.yaml."""
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(conf_folder() / "config.yaml"), resolve=False)
    return {key: _keys(value) for key, value in content.items() if key != "defaults"} | {"hydra": ANY}


def _chosen(group: str, name: str, needed: set[str]) -> Shape:
    """Join the keys of a group's files; files are read only until all needed keys are found."""
    shape = dict(_keys_of(group, name))
    for choice in choices(group):
        if needed <= set(shape) and group != "model":
            break
        shape = _united(shape, _keys_of(group, choice))
    return shape


def _keys_of(group: str, name: str) -> Shape:
    file = choice_files(group).get(name)
    return {} if file is None else _keys_in(file, group)


@cache
def _keys_in(file: Path, group: str) -> Shape:
    return _keys(_section_in(file, group))


def _keys(node: Any) -> dict[str, Any]:
    return {str(name): _keys(child) for name, child in node.items()} if isinstance(node, Mapping) else {}


def _united(first: Shape, second: Shape) -> dict[str, Any]:
    return {name: _united(first.get(name, {}), second.get(name, {})) for name in [*first, *second]}


def _references(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys that interpolations refer to."""

    def visit(node: Any, path: list[str]) -> Iterator[str]:
        if isinstance(node, Mapping | list):
            for name, child in node.items() if isinstance(node, Mapping) else enumerate(node):
                yield from visit(child, [*path, str(name)])
        elif isinstance(node, str):
            for dots, key in _REFERENCE.findall(node):
                above = path[: len(path) - len(dots)] if dots else []
                yield ".".join([*above, key.replace("[", ".").replace("]", "")])

    return visit(config, [])
