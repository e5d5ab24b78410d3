"""Early refusals of values that have the wrong type or cannot be, before anything is computed."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch

from dmq_cli.errors import ConfigError, nearest
from dmq_cli.stages.interfaces import check_interfaces
from dmq_cli.stages.plugins import resolve
from dmq_cli.stages.targets import targets_of

_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "null"}


def check_types(name: str, section: Mapping[str, Any]) -> None:
    """Compare values with the annotations of the dataclass that `_target_` names, in nested mappings too.

    Lists are left to what they are made into (a scheme checks its rules). Raises ConfigError, also for a target at any depth that
    is not there, and for a class that cannot stand where it is named.
    """
    for key, target in targets_of(section, name):
        resolve(key, target)
    check_interfaces(name, section)
    _check_types(name, section)


def _check_types(name: str, section: Mapping[str, Any]) -> None:
    hints = _hints(resolve(f"{name}._target_", section["_target_"]).value) if "_target_" in section else {}
    for key, value in section.items():
        if key in hints and not _fits(value, hints[key]):
            raise ConfigError(f"{name}.{key}={value} is not possible; give {_expected(hints[key])}.")
        if isinstance(value, Mapping):
            _check_types(f"{name}.{key}", value)


def _hints(target: Any) -> dict[str, Any]:
    """The annotations of a dataclass; none of another thing, and none where somebody's name things that only a type checker sees."""
    if not dataclasses.is_dataclass(target):
        return {}
    try:
        return get_type_hints(target)
    except (NameError, TypeError, AttributeError):
        return {}


def check_runtime(runtime: Mapping[str, Any], stages: Iterable[str]) -> None:
    """Raise ConfigError for a value under `runtime` that cannot be."""
    for key, least in (("batch_size", 1), ("threads", 1)):
        value = runtime[key]
        if not (_fits(value, int) and value >= least) and not (key == "threads" and value is None):
            raise ConfigError(f"runtime.{key}={value} is not possible; give a whole number, at least {least}.")
    if not isinstance(runtime["outputs"], str) or not runtime["outputs"]:
        raise ConfigError(f"runtime.outputs={runtime['outputs']} is no path; write one like runtime.outputs=outputs.")
    if runtime["upstream"] not in ("ensure", "require"):
        raise ConfigError(f"runtime.upstream={runtime['upstream']} is not known; use ensure or require.")
    if not isinstance(runtime["force"], list):
        raise ConfigError(f"runtime.force={runtime['force']} is no list of stages; write runtime.force=[reconstruct].")
    known = list(stages)
    for stage in runtime["force"]:
        if stage not in known:
            raise ConfigError(
                f"runtime.force names the stage {stage}, which does not exist.{nearest(str(stage), known)}"
            )
    check_device(runtime["device"])


def check_device(device: object, asked: str = "runtime.device") -> str:
    """A device that torch can use here. asked: which setting names it, for the ConfigError if it cannot."""
    try:
        torch.empty(0, device=device)  # type: ignore[call-overload]
    except (RuntimeError, AssertionError, TypeError) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(f"{asked}={device} cannot be used here ({first}); use cpu.") from error
    return str(device)


def check_choices(config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value of `retry` or `scale` that does not exist."""
    for key, known in (("retry", (None, "failed")), ("scale", ("paper", "digits"))):
        if (value := config.get(key, known[0])) not in known:
            names = " or ".join("null" if one is None else one for one in known)
            raise ConfigError(f"{key}={value} is not known; use {names}.")


def _fits(value: object, hint: Any) -> bool:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin is tuple:
        if not isinstance(value, list | tuple):
            return False
        each = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        return len(each) == len(value) and all(map(_fits, value, each))
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return type(value) is int
    if hint is str:  # `seeds=7` is a number for Hydra
        return isinstance(value, str) or type(value) is int
    return isinstance(value, hint) if hint in (bool, type(None)) else True


def _expected(hint: Any) -> str:
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(_expected(one) for one in get_args(hint))
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) is tuple:
        kind, *more = get_args(hint)
        count = "" if more == [...] else f" {len(more) + 1} times"
        return f"a list of {_expected(kind)}{count}"
    return _WORDS.get(hint, str(hint))
