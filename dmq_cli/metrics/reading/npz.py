"""Read arrays of an .npz; their headers are checked before anything is decompressed."""

from __future__ import annotations

import io
import math
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.reading.look import looked_at

_HEAD = 1 << 14  # bytes that are read for the head of an array
_GROWS = 200  # bytes of images from one stored byte, above which large arrays cannot be samples
_MANY = 1 << 28
_LOOKED = 250  # images that are checked at a time
_NUMBERS = "biufc"


class Head(NamedTuple):
    """The header of an array. fortran: whether the first index runs fastest; offset: bytes before the numbers; stored: bytes in the
    file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool
    offset: int
    stored: int


def read_heads(file: Path) -> dict[str, Head]:
    """Read the headers of all arrays of an .npz, by name; other entries are not read.

    Raises EvaluationError for a file that is not an .npz, two arrays of one name, and an array whose length does not fit its
    header, or that would have to be unpickled.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            names = [info.filename.removesuffix(".npy") for info in members]
            heads = {name: _head(archive, info) for name, info in zip(names, members, strict=True)}
    except Exception as error:  # zipfile, zlib, numpy and the OS each have their own
        raise unreadable(file, "an .npz of images or statistics", error) from error
    if len(heads) < len(names):
        raise EvaluationError(f"{file} has two arrays of one name; write it again with one of each.")
    return heads


def read_arrays(file: Path, heads: Mapping[str, Head], keys: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read those of the arrays that the file has. Raises EvaluationError where they do not fit into memory or cannot be read."""
    present = [key for key in keys if key in heads]
    for key in present:
        check_memory(f"{key} of {file}", heads[key].shape, heads[key].dtype.itemsize)
    try:
        with zipfile.ZipFile(file) as archive:
            return {key: _read(archive, f"{key}.npy") for key in present}
    except Exception as error:  # zipfile, zlib, numpy and the OS each have their own
        raise unreadable(file, "an .npz of images or statistics", error) from error


def image_shape(file: Path) -> tuple[int, int, int, int]:
    """Read the shape (N, H, W, 1 or 3) of the uint8 images under arr_0, not the images. Raises EvaluationError for other arrays."""
    return _image_shape(file, read_heads(file))


def read_npz(file: Path) -> NDArray[np.uint8]:
    """Read the images under arr_0, uint8 (N, H, W, 1 or 3). Raises as `image_shape`, `read_arrays` and `looked_at`."""
    heads = read_heads(file)
    count = _image_shape(file, heads)[0]
    images: NDArray[np.uint8] = read_arrays(file, heads, ["arr_0"])["arr_0"]
    for _ in looked_at((images[start : start + _LOOKED] for start in range(0, count, _LOOKED)), str(file)):
        pass
    return images


def read_batches(file: Path, size: int) -> Iterator[NDArray[np.uint8]]:
    """Read these images, at most `size` at a time, without holding all in memory. Raises as `read_npz`."""
    heads = read_heads(file)
    count, *shape = _image_shape(file, heads)
    if heads["arr_0"].fortran:  # the first index runs fastest
        images = read_arrays(file, heads, ["arr_0"])["arr_0"]
        yield from (images[start : start + size] for start in range(0, count, size))
        return
    try:
        with zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as opened:
            opened.read(heads["arr_0"].offset)
            for start in range(0, count, size):
                batch_shape = (min(size, count - start), *shape)
                yield np.frombuffer(opened.read(math.prod(batch_shape)), np.uint8).reshape(batch_shape)
    except Exception as error:  # zipfile, zlib, numpy and the OS each have their own
        raise unreadable(file, "an .npz of images or statistics", error) from error


def check_memory(what: str, shape: Iterable[int], itemsize: int) -> None:
    """Raise EvaluationError for an array that would take more than the memory of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if (size := math.prod(shape) * itemsize) > memory:
        raise EvaluationError(
            f"{what} would take {size / 1e9:,.1f} GB, but this machine has {memory / 1e9:,.1f} GB; give fewer or smaller images."
        )


def unreadable(file: Path, what: str, error: Exception) -> EvaluationError:
    """Make the error about a file that is not `what`, without the libraries' messages, which advise to unpickle."""
    problem = error.strerror if isinstance(error, OSError) else None
    problem = problem or "it holds something else, is cut off, or would have to be unpickled"
    return EvaluationError(
        f"{file} was to be read as {what}, but cannot be ({problem}); give a file of one of the layouts that dmq reads."
    )


def _image_shape(file: Path, heads: Mapping[str, Head]) -> tuple[int, int, int, int]:
    if "arr_0" not in heads:
        raise EvaluationError(
            f"Images were to be read from {file}, but it has none under arr_0; give an .npz of images."
        )
    shape, dtype, stored = heads["arr_0"].shape, heads["arr_0"].dtype, heads["arr_0"].stored
    problem = f"{file} should have uint8 images (N, H, W, C) under arr_0, but has {dtype} {shape}"
    if dtype != np.uint8 or len(shape) != 4 or 0 in shape:
        raise EvaluationError(f"{problem}; write them so.")
    if shape[3] not in (1, 3):
        moved = "put the channels last" if shape[1] in (1, 3) else "write them as grey (C = 1) or RGB (C = 3)"
        raise EvaluationError(f"{problem}; {moved}.")
    image_arrays = [name for name, head in heads.items() if head.dtype == np.uint8 and len(head.shape) == 4]
    if len(image_arrays) > 1:
        raise EvaluationError(
            f"{file} has images under {' and '.join(sorted(image_arrays))}, and only arr_0 would be read; join them under arr_0."
        )
    if math.prod(shape) > max(_MANY, _GROWS * stored):
        raise EvaluationError(
            f"{file} has {stored / 1e6:.1f} MB that would grow to {math.prod(shape) / 1e9:.1f} GB of images, as none of samples do;"
            " write them with numpy.savez, uncompressed."
        )
    return shape[0], shape[1], shape[2], shape[3]


def _head(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Head:
    with archive.open(info) as opened:
        head = io.BytesIO(opened.read(_HEAD))
    version = npy.read_magic(head)
    read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
    shape, fortran, dtype = read(head)
    if dtype.hasobject or min(shape, default=1) < 0:
        raise ValueError("objects")
    if dtype.kind in _NUMBERS and math.prod(shape) * dtype.itemsize != info.file_size - head.tell():
        raise ValueError("cut off")
    return Head(shape, dtype, fortran, head.tell(), info.compress_size)


def _read(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as opened:
        array: NDArray[Any] = npy.read_array(opened, allow_pickle=False)
        return array
