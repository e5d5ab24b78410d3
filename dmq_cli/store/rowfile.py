"""One long tensor in a file, written batch by batch and read row by row without holding it. Use it through dmq_cli.store.tensors.

The file is a safetensors file with one tensor, "data": 8 bytes little-endian header length, a JSON header, then the values. The
header is known before the values, because the final shape is; so both sides can go through the file in pieces.
"""

from __future__ import annotations

import json
import math
import os
import weakref
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError, ArtifactError
from dmq_cli.store.files import naming

_CODES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {code: dtype for dtype, code in _CODES.items()}
_ALIGN = 8  # the values start at a multiple of this, as safetensors itself writes it
_HEADER_MAX = 1 << 20


class RowWriter:
    """Writes a tensor of `shape` (n, ...) batch by batch; `path` appears at `close`, whole.

    dtype: float32, float16, float64, int64, uint8 or bool. As a context manager it closes at the end and aborts on
    an exception. A killed writer leaves ".<name>.tmp" beside `path`, which the next writer overwrites.
    Raises ArtifactError for another dtype, OSError.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        if dtype not in _CODES or not shape:
            raise ArtifactError(
                f"{path} was to hold rows of shape {tuple(shape)} and {dtype}: give at least one dimension "
                f"and one of {', '.join(str(name) for name in _CODES)}."
            )
        self.path, self.shape, self.dtype = Path(path), tuple(shape), dtype
        self.written = 0
        self._scratch = self.path.with_name(f".{self.path.name}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._scratch, "wb")  # noqa: SIM115 - closed by close or abort
        with naming(self.path):
            self._file.write(_header(self.shape, dtype))

    def append(self, batch: Tensor) -> None:
        """Write the next rows, (b, ...) with b >= 0, on any device. Raises ArtifactError if they misfit."""
        rows = self.written + len(batch)
        if batch.shape[1:] != self.shape[1:] or batch.dtype != self.dtype or rows > self.shape[0]:
            raise ArtifactError(
                f"{self.path} takes {self.shape[0]} rows of shape {self.shape[1:]} and {self.dtype}, but "
                f"after {self.written} rows came {tuple(batch.shape)} of {batch.dtype}: fix "
                "the shape or the dtype."
            )
        if batch.numel():
            with naming(self.path):
                self._file.write(_bytes_of(batch.detach().cpu().contiguous()))
        self.written = rows

    def close(self) -> None:
        """Put the file in place; a second call does nothing.

        Raises ArtifactError, and leaves nothing, if rows are missing.
        """
        if self._file.closed:
            return
        try:
            self._finish()
        except BaseException:
            self.abort()
            raise

    def abort(self) -> None:
        """Remove what was written. Does nothing after `close`."""
        with suppress(OSError):
            self._file.close()  # flushes, and a full disk refuses that
        self._scratch.unlink(missing_ok=True)

    def _finish(self) -> None:
        if self.written != self.shape[0]:
            raise ArtifactError(
                f"{self.path} was to get {self.shape[0]} rows, but {self.written} came before it was closed: "
                "append the rest first."
            )
        with naming(self.path, self._scratch):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._scratch, self.path)

    def __enter__(self) -> RowWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close() if error is None else self.abort()


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
            self.shape, self.dtype, self._start = _read_header(self._descriptor)
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
        row_numbers = _as_list(indices)
        if wrong := [index for index in row_numbers if not 0 <= index < len(self)]:
            raise IndexError(f"{self.path} has {len(self)} rows, no row {wrong[0]}")
        out = torch.empty((len(row_numbers), *self.shape[1:]), dtype=self.dtype)
        if out.numel():
            view = _bytes_of(out)
            for position, index, count in _runs(row_numbers):
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
        size = os.fstat(self._descriptor).st_size
        if size != expected:
            self.close()
            raise self._corrupt(f"it has {size} bytes instead of {expected}")

    def _corrupt(self, problem: str) -> ArtifactCorruptError:
        return ArtifactCorruptError(
            f"Rows were to be read from {self.path}, but {problem}: delete it and make it again."
        )


def _header(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    """All bytes before the values of a tensor of `shape`."""
    size = math.prod(shape) * dtype.itemsize
    entry = {"dtype": _CODES[dtype], "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"data": entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def _read_header(descriptor: int) -> tuple[tuple[int, ...], torch.dtype, int]:
    """Shape, dtype and the offset of the first value.

    Raises ValueError, KeyError, TypeError, AttributeError or RecursionError for another content.
    """
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > _HEADER_MAX:
        raise ValueError(f"{length} bytes long")
    tensors = json.loads(os.pread(descriptor, length, 8))
    tensors.pop("__metadata__", None)
    if list(tensors) != ["data"]:
        raise ValueError(f"tensors {list(tensors)}")
    shape = tuple(int(size) for size in tensors["data"]["shape"])
    if not shape or min(shape) < 0:
        raise ValueError(f"shape {shape}")
    return shape, _DTYPES[tensors["data"]["dtype"]], 8 + length


def _bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor with at least one element, as bytes; writes go to the tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


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
