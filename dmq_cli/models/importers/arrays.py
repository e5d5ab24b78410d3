"""Read the NumPy arrays in a file of torch.save from what it says of their dtype, shape and bytes, without unpickling."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from dmq_cli.errors import ModelError
from dmq_cli.models.importers.archive import Archive, open_archive
from dmq_cli.models.importers.restricted import Call
from dmq_cli.models.importers.state import entries_of, name_of, tensor_of

_ARRAYS = ("numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct")
_DTYPES: dict[str, np.dtype[Any]] = {"f4": np.dtype("<f4"), "f8": np.dtype("<f8")}


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The arrays, or tensors, that a dictionary in the file has under these names. Raises ModelError for other files."""
    archive = open_archive(path)
    entries = entries_of(archive.tree) or {}
    return {name: _array(archive, entries.get(name), name) for name in names}


def _array(archive: Archive, node: object, name: str) -> NDArray[Any]:
    """numpy pickles an array as a call of _reconstruct whose state is (version, shape, dtype, Fortran order, bytes)."""
    if (tensor := tensor_of(archive, node)) is not None:
        return np.asarray(tensor)
    state = node.states[0] if isinstance(node, Call) and name_of(node.function) in _ARRAYS and node.states else None
    if not isinstance(state, tuple) or len(state) != 5:
        _refuse(archive.path, name)
    _, shape, kind, fortran, content = state
    dtype, data = _dtype(kind), _bytes(content)
    if dtype is None or data is None or not isinstance(shape, tuple) or not all(type(size) is int for size in shape):
        _refuse(archive.path, name)
    if min(shape, default=1) < 0 or prod(shape) * dtype.itemsize != len(data):
        _refuse(archive.path, name)
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran is True else "C").copy()


def _dtype(node: object) -> np.dtype[Any] | None:
    """float32 or float64 in little-endian order, the second entry of its state."""
    if not isinstance(node, Call) or name_of(node.function) != "numpy.dtype" or not isinstance(node.args, tuple):
        return None
    state = node.states[0] if node.states else None
    little = isinstance(state, tuple) and len(state) > 1 and state[1] == "<"
    first = node.args[0] if node.args else None
    return _DTYPES.get(first) if little and isinstance(first, str) else None


def _bytes(node: object) -> bytes | None:
    """Bytes, which Python's second pickle protocol writes as a call that encodes text as latin1."""
    if isinstance(node, Call) and name_of(node.function) == "_codecs.encode" and isinstance(node.args, tuple):
        text = node.args[0] if len(node.args) == 2 and node.args[1] == "latin1" else None
        return text.encode("latin1") if isinstance(text, str) else None
    return node if isinstance(node, bytes) else None


def _refuse(path: Path, name: str) -> NoReturn:
    raise ModelError(f"The entry {name} of {path} is no array of floating-point numbers; nothing else is read from it.")
