"""Reading rows of one long tensor without holding it. Use it through dmq_cli.store.tensors."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.store.rowformat import bytes_of, read_header


class RowFile:
    """Reads rows of a file that `RowWriter` (or safetensors, with the one tensor "data") wrote.

    shape: (n, ...). dtype: as written. Nothing is mapped or kept in memory. The file stays open until `close`
    or until the object is collected. Raises ArtifactCorruptError where the file is missing, truncated or
    something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._corrupt(str(error.strerror)) from error
        self._close = weakref.finalize(self, os.close, self._descriptor)
        try:
            self.shape, self.dtype, self._start = read_header(self._descriptor)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OSError) as error:
            self.close()
            raise self._corrupt(f"its header is not that of one tensor of rows: {error!r}") from error
        self._stride = math.prod(self.shape[1:]) * self.dtype.itemsize
        self._check_size()

    def __len__(self) -> int:
        return self.shape[0]

    def rows(self, indices: Sequence[int] | Tensor) -> Tensor:
        """The rows at `indices` (k integers in 0..n-1, any order, repeats allowed) as a new tensor (k, ...).

        Raises IndexError for another index, ArtifactCorruptError if the file has shrunk.
        """
        wanted = _as_list(indices)
        if wrong := [index for index in wanted if not 0 <= index < len(self)]:
            raise IndexError(f"{self.path} has {len(self)} rows, no row {wrong[0]}")
        out = torch.empty((len(wanted), *self.shape[1:]), dtype=self.dtype)
        if out.numel():
            view = bytes_of(out)
            for position, index, count in _runs(wanted):
                self._read(view[position * self._stride : (position + count) * self._stride], index)
        return out

    def batches(self, size: int) -> Iterator[Tensor]:
        """All rows in order, `size` >= 1 at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            yield self.rows(range(start, min(start + size, len(self))))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._close()

    def _read(self, view: memoryview, index: int) -> None:
        offset = self._start + index * self._stride
        while len(view):
            count = os.preadv(self._descriptor, [view], offset)
            if count == 0:
                raise self._corrupt("it ends too early")
            view, offset = view[count:], offset + count

    def _check_size(self) -> None:
        expected = self._start + len(self) * self._stride
        found = os.fstat(self._descriptor).st_size
        if found != expected:
            self.close()
            raise self._corrupt(f"it has {found} bytes instead of {expected}")

    def _corrupt(self, found: str) -> ArtifactCorruptError:
        return ArtifactCorruptError(f"Rows were to be read from {self.path}, but {found}: delete it and make it again.")


def _as_list(indices: Sequence[int] | Tensor) -> Sequence[int]:
    if not isinstance(indices, Tensor):
        return indices
    if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
        raise IndexError(f"rows are chosen by a 1-d integer tensor, not {indices.ndim}-d {indices.dtype}")
    return [int(index) for index in indices.tolist()]


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Group neighbours that follow each other in the file: (position in indices, first index, count)."""
    start = 0
    for position in range(1, len(indices) + 1):
        if position == len(indices) or indices[position] != indices[position - 1] + 1:
            yield start, indices[start], position - start
            start = position
