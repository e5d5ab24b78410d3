"""Writing one long tensor batch by batch. Use it through dmq_cli.store.tensors."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from dmq_cli.errors import ArtifactError
from dmq_cli.store.files import naming
from dmq_cli.store.rowformat import CODES, bytes_of, header


class RowWriter:
    """Writes a tensor of `shape` (n, ...) batch by batch; `path` appears at `close`, whole.

    dtype: float32, float16, float64, int64 or uint8. As a context manager it closes at the end and aborts on
    an exception. A killed writer leaves ".<name>.tmp" beside `path`, which the next writer overwrites.
    Raises ArtifactError for another dtype, OSError.
    """

    def __init__(self, path: Path, shape: Sequence[int], dtype: torch.dtype) -> None:
        if dtype not in CODES or not shape:
            raise ArtifactError(
                f"{path} was to hold rows of shape {tuple(shape)} and {dtype}: give at least one dimension "
                f"and one of {', '.join(str(known) for known in CODES)}."
            )
        self.path, self.shape, self.dtype = Path(path), tuple(shape), dtype
        self.written = 0
        self._scratch = self.path.with_name(f".{self.path.name}.tmp")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(self._scratch, "wb")  # noqa: SIM115 - closed by close or abort
        with naming(self.path):
            self._file.write(header(self.shape, dtype))

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
                self._file.write(bytes_of(batch.detach().cpu().contiguous()))
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
