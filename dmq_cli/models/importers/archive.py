"""PyTorch's two file formats as a pickle and places in the file where the numbers lie. Nothing is extracted or executed.

zip (torch.save since 1.6): NAME/data.pkl and uncompressed NAME/data/KEY. legacy: five pickles, then for each storage its
number of elements (8 bytes) and its bytes. Described in torch/serialization.py. The numbers stay in the file, mapped.
"""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

import torch

from dmq_cli.errors import ModelError
from dmq_cli.models.importers.restricted import Global, Persistent, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the legacy format
_LONGEST_PICKLE = 256 << 20  # bytes; those of real checkpoints have a few MB
_DTYPES = {
    "torch.DoubleStorage": torch.float64,
    "torch.FloatStorage": torch.float32,
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}


@dataclass(frozen=True)
class Span:
    """The place of a storage's bytes in the file."""

    start: int
    nbytes: int


@dataclass(frozen=True)
class Archive:
    """tree: as read_pickle gives it; spans: by storage key; memory: the file, mapped copy-on-write."""

    path: Path
    tree: object
    spans: dict[str, Span]
    memory: mmap.mmap


def open_archive(path: Path) -> Archive:
    """Map a .ckpt, .pth, .pt or .bin file. Raises ModelError for a file that is not such a one."""
    with open(path, "rb") as file:
        if path.stat().st_size == 0:
            raise ModelError(f"The checkpoint {path} is empty; download it again.")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        tree, spans = _zip(file, path, memory) if memory[:4] == b"PK\x03\x04" else _legacy(file, path, len(memory))
    return Archive(path, tree, spans, memory)


def storage(reference: Persistent, path: Path) -> tuple[str, torch.dtype, int]:
    """(key, dtype, number of elements) of a reference as PyTorch writes it; raises ModelError for another."""
    args = reference.args
    if isinstance(args, tuple) and len(args) in (5, 6) and args[0] == "storage" and args[5:] in ((), (None,)):
        _, kind, key, _, count = args[:5]
        if isinstance(kind, Global) and kind.name in _DTYPES and isinstance(key, str) and type(count) is int:
            return key, _DTYPES[kind.name], count
    raise ModelError(f"The file {path} refers to numbers in a way that PyTorch does not write; download it again.")


def _zip(file: BinaryIO, path: Path, memory: mmap.mmap) -> tuple[object, dict[str, Span]]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
        raise ModelError(f"The file {path} is not a whole zip archive ({error}); download it again.") from error
    places = {PurePosixPath(entry.filename): _span(entry, path, memory) for entry in entries}
    pickles = [name for name in places if name.name == "data.pkl"]
    if len(pickles) != 1 or len(places) != len(entries):
        raise ModelError(f"The zip archive {path} does not have one data.pkl as PyTorch writes it; give another file.")
    root = pickles[0].parent
    if (order := places.get(root / "byteorder")) and memory[order.start : order.start + order.nbytes] != b"little":
        raise ModelError(f"The file {path} was written on a big-endian machine; save it again on a common one.")
    pickle = places[pickles[0]]
    if pickle.nbytes > _LONGEST_PICKLE:
        raise ModelError(
            f"The file {path} declares a pickle of {pickle.nbytes} bytes, far too many; download it again."
        )
    tree = read_pickle(io.BytesIO(memory[pickle.start : pickle.start + pickle.nbytes]), path).tree
    return tree, {name.name: span for name, span in places.items() if name.parent == root / "data"}


def _span(entry: zipfile.ZipInfo, path: Path, memory: mmap.mmap) -> Span:
    """Find the place of an entry's bytes; names are only looked up, never used as paths, but bad ones show a forged file."""
    name = PurePosixPath(entry.filename)
    if name.is_absolute() or ".." in name.parts or "\\" in entry.filename:
        raise ModelError(f"The zip archive {path} has an entry named {entry.filename!r}, which no checkpoint has.")
    header = memory[entry.header_offset : entry.header_offset + 30]
    plain = entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & 1
    if len(header) == 30 and plain and entry.file_size == entry.compress_size:
        start = entry.header_offset + 30 + sum(struct.unpack("<2H", header[26:]))
        if header[:4] == b"PK\x03\x04" and start + entry.file_size <= len(memory):
            return Span(start, entry.file_size)
    raise ModelError(
        f"The entry {entry.filename!r} of {path} is compressed or longer than the file, which PyTorch does not write;"
        " download it again."
    )


def _legacy(file: BinaryIO, path: Path, size: int) -> tuple[object, dict[str, Span]]:
    if read_pickle(file, path).tree != _MAGIC:
        raise ModelError(f"The file {path} is a pickle, but not one that PyTorch wrote; give a checkpoint.")
    read_pickle(file, path)  # version of the format
    read_pickle(file, path)  # sizes of C types where it was written
    pickle = read_pickle(file, path)
    keys = read_pickle(file, path).tree
    referred = [reference for reference in pickle.persistent if not _is_source(reference)]
    widths = {key: dtype.itemsize for key, dtype, _ in (storage(reference, path) for reference in referred)}
    if not isinstance(keys, list) or not all(isinstance(key, str) and key in widths for key in keys):
        raise ModelError(f"The file {path} lists numbers that nothing in it uses; download it again.")
    spans, place = {}, file.tell()
    for key in keys:
        file.seek(place)
        count = int.from_bytes(file.read(8), "little")
        spans[key] = Span(place + 8, count * widths[key])
        place += 8 + spans[key].nbytes
        if place > size:
            raise ModelError(f"The file {path} ends before its numbers do; download it again.")
    return pickle.tree, spans


def _is_source(reference: Persistent) -> bool:
    """Whether it is the source text of a pickled module, which the legacy format carries for comparison only."""
    return isinstance(reference.args, tuple) and reference.args[:1] == ("module",)
