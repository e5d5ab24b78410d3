"""Is a committed artifact still what was committed? Its manifest lists every file with size and sha256."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.store.digest import file_sha256
from dmq_cli.store.files import fsync, read_json

MANIFEST = "manifest.json"
HASHED_BELOW = 64 * 1000 * 1000  # bytes; reading more than this on every start would be felt

_Prints = tuple[tuple[str | int, ...], ...]
_hashed: dict[Path, _Prints] = {}  # folder -> hashes last found right, and the files' stat marks then


class FileRecord(NamedTuple):
    """One file of an artifact: its path relative to the folder (with "/"), its bytes, its sha256 in hex."""

    path: str
    size: int
    sha256: str


def record_files(folder: Path) -> list[dict[str, str | int]]:
    """Sync and hash every file below `folder` but the manifest: [{"path", "size", "sha256"}], sorted."""
    records = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            fsync(path)
            record = FileRecord(name, path.stat().st_size, file_sha256(path))
            records.append(dict(record._asdict()))
    return records


def check_files(folder: Path, stage: str, full: bool = False) -> None:
    """Compare a committed folder with its manifest.

    Sizes always. Hashes with `full`; otherwise if the files have less than 64 MB together, and then only once
    per process for as long as their inodes, sizes and times stay the same.
    Raises ArtifactCorruptError naming the file, the folder and `runtime.force=[<stage>]`.
    """
    records = _listed(folder, stage)
    prints = tuple(_size_checked(folder, stage, record) for record in records)
    small = sum(record.size for record in records) < HASHED_BELOW
    if full or (small and _hashed.get(folder) != prints):
        for record in records:
            _check_hash(folder, stage, record)
        _hashed[folder] = prints


def _listed(folder: Path, stage: str) -> list[FileRecord]:
    try:
        entries = read_json(folder / MANIFEST)["files"]
        records = [FileRecord(entry["path"], entry["size"], entry["sha256"]) for entry in entries]
    except ArtifactCorruptError as error:
        raise _corrupt(folder, stage, MANIFEST, "is missing or not readable") from error
    except (KeyError, TypeError) as error:
        raise _corrupt(folder, stage, MANIFEST, "lists no files with path, size and sha256") from error
    if not all(_well_formed(record) for record in records):
        raise _corrupt(folder, stage, MANIFEST, "lists a file with a wrong path, size or sha256")
    return records


def _well_formed(record: FileRecord) -> bool:
    if not (isinstance(record.path, str) and type(record.size) is int and isinstance(record.sha256, str)):
        return False
    path = PurePosixPath(record.path)
    return not path.is_absolute() and ".." not in path.parts


def _size_checked(folder: Path, stage: str, record: FileRecord) -> tuple[str | int, ...]:
    try:
        found = os.stat(folder / record.path)
    except OSError as error:
        raise _corrupt(folder, stage, record.path, f"is missing ({error.strerror})") from error
    if not stat.S_ISREG(found.st_mode):
        raise _corrupt(folder, stage, record.path, "is no longer a file")
    if found.st_size != record.size:
        raise _corrupt(folder, stage, record.path, f"has {found.st_size} bytes instead of {record.size}")
    return (record.sha256, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def _check_hash(folder: Path, stage: str, record: FileRecord) -> None:
    try:
        found = file_sha256(folder / record.path)
    except OSError as error:
        raise _corrupt(folder, stage, record.path, f"cannot be read ({error.strerror})") from error
    if found != record.sha256:
        raise _corrupt(folder, stage, record.path, "was altered: its sha256 is not the one in the manifest")


def _corrupt(folder: Path, stage: str, name: str, found: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"The {stage} artifact {folder.name[:8]} was asked for, but its file {name} {found}: delete "
        f"{folder} or rerun with runtime.force=[{stage}]."
    )
