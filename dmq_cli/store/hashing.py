"""Hash plain values, by canonical JSON, and files, with sha256."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path

from dmq_cli.errors import ConfigError

_CHUNK = 1 << 20  # bytes read at a time


def canonical(value: object) -> str:
    """Write a plain value as canonical JSON: sorted keys, no spaces, ASCII, floats by repr, tuples as lists.

    value: None, bool, int, float, str, and lists, tuples and str-keyed dicts of those; exactly these types,
    because a subclass (np.float64, an Enum) prints differently from one library version to the next. 1 and
    1.0 stay different. Raises ConfigError naming the place of a NaN, an infinity, another type or a key that
    is not a str.
    """
    _check(value, "")
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def digest(value: object, length: int = 32) -> str:
    """The first `length` (1..64) hex digits of the sha256 of `canonical(value)`. Raises ConfigError."""
    return hashlib.sha256(canonical(value).encode("ascii")).hexdigest()[:length]


def file_sha256(path: Path | str) -> str:
    """The sha256 of a file's bytes, 64 hex digits, read in pieces of 1 MiB. Raises OSError."""
    state = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            state.update(chunk)
    return state.hexdigest()


def _check(obj: object, where: str) -> None:
    if type(obj) is dict:
        for key, value in obj.items():
            if type(key) is not str:
                raise _refused(where, f"the key {key!r} of type {type(key).__name__}", "write keys as strings")
            _check(value, f"{where}.{key}" if where else key)
    elif type(obj) in (list, tuple):
        for index, value in enumerate(obj):  # type: ignore[arg-type]
            _check(value, f"{where}[{index}]")
    elif type(obj) is float:
        if not math.isfinite(obj):
            raise _refused(where, repr(obj), "give a finite number or null")
    elif type(obj) not in (type(None), bool, int, str):
        raise _refused(where, f"a {type(obj).__name__}", "use null, booleans, numbers, strings, lists and dicts")


def _refused(where: str, content: str, advice: str) -> ConfigError:
    place = f"'{where}'" if where else "the top level"
    return ConfigError(f"A key was to be computed from plain values, but {place} holds {content}: {advice}.")
