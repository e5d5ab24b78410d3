"""Check that an artifact is still as it was committed, by its manifest, which lists every file.

The key is computed from the stage, its version, its configuration and the keys of its inputs, all of which the manifest has, so that
a folder that was swapped, renamed or edited is detected without any other file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.store.files import fsync, read_json
from dmq_cli.store.hashing import digest, file_sha256

MANIFEST = "manifest.json"
HASHED_BELOW = 64 * 1000 * 1000  # bytes; reading more than this on every lookup would be slow

_Mark = tuple[int, int, int, int]


class FileRecord(NamedTuple):
    """One file of an artifact: its path relative to the folder (with "/"), its bytes, its sha256 in hex."""

    path: str
    size: int
    sha256: str


class _Checked(NamedTuple):
    """An artifact that this process has checked: the files' marks at that time, and whether all were hashed."""

    marks: dict[str, _Mark | None]
    hashed: bool


_checked: dict[tuple[Path, str, str], _Checked] = {}


def is_scratch(name: str) -> bool:
    """Whether a path inside a work folder is scratch: a part starts with "." or "tmp-" or ends with ".tmp"."""
    return any(part.startswith((".", "tmp-")) or part.endswith(".tmp") for part in PurePosixPath(name).parts)


def record_files(folder: Path) -> list[dict[str, str | int]]:
    """Sync and hash every file below `folder` but scratch and the manifest: [{"path", "size", "sha256"}], sorted."""
    records = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST and not is_scratch(name):
            fsync(path)
            record = FileRecord(name, path.stat().st_size, file_sha256(path))
            records.append(dict(record._asdict()))
    return records


def check_files(folder: Path, stage: str, key: str, full: bool = False, scratch: bool = False) -> None:
    """Compare a folder with its manifest: stage, key, the set of files, their sizes, their hashes.

    Hashes are compared with `full`, or if the files have less than 64 MB together; files that passed are not read again by
    this process as long as inodes, sizes and times stay the same. scratch: whether scratch files are allowed. Raises
    ArtifactCorruptError naming the file, the folder and `runtime.force=[<stage>]`.
    """
    artifact = _Artifact(folder, stage, key)
    marks = {name: mark for name, mark in artifact.marks() if not (scratch and is_scratch(name))}
    checked = _checked.get((folder, stage, key))
    if checked is not None and checked.marks == marks and (checked.hashed or not full):
        return
    records = artifact.listed()
    for record in records:
        artifact.check_size(record, marks)
    if unlisted := sorted(marks.keys() - {record.path for record in records} - {MANIFEST}):
        raise artifact.corrupt(unlisted[0], "is not in the manifest")
    hashed = full or sum(record.size for record in records) < HASHED_BELOW
    for record in records if hashed else ():
        artifact.check_hash(record)
    _checked[folder, stage, key] = _Checked(marks, hashed)


def check_artifact(folder: Path, stage: str, key: str) -> dict[str, Any]:
    """Check every hash of an artifact, which need not lie in a store, and return its manifest."""
    check_files(folder, stage, key, full=True)
    manifest: dict[str, Any] = read_json(folder / MANIFEST)
    return manifest


def committed(folder: Path, stage: str, key: str) -> None:
    """Record that this process has just hashed all files of a folder."""
    _checked[folder, stage, key] = _Checked(dict(_Artifact(folder, stage, key).marks()), hashed=True)


def is_manifest_of(manifest: Any, stage: str, key: str) -> bool:
    """Whether a manifest is of this stage and key, and that key follows from its configuration and inputs, if it has them."""
    if not isinstance(manifest, Mapping) or (manifest.get("stage"), manifest.get("key")) != (stage, key):
        return False
    if not manifest.keys() & {"version", "config", "inputs"}:
        return True
    inputs = manifest.get("inputs")
    if not isinstance(inputs, Mapping):
        return False
    try:
        return digest([stage, manifest.get("version"), manifest.get("config"), list(inputs.values())]) == key
    except ConfigError:
        return False


class _Artifact(NamedTuple):
    folder: Path
    stage: str
    key: str

    def marks(self) -> Iterator[tuple[str, _Mark | None]]:
        """Yield every file below the folder with inode, size and times; None for anything that is not a file."""
        waiting = [""]
        while waiting:
            below = waiting.pop()
            try:
                entries = list(os.scandir(self.folder / below))
            except OSError as error:
                raise self.corrupt(below or MANIFEST, f"cannot be looked for ({error.strerror})") from error
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{below}{entry.name}/")
                else:
                    yield f"{below}{entry.name}", _mark(entry)

    def listed(self) -> list[FileRecord]:
        """Read the files that the manifest lists, after checking that it is of this artifact."""
        try:
            manifest = read_json(self.folder / MANIFEST)
        except ArtifactCorruptError as error:
            raise self.corrupt(MANIFEST, "is missing or not readable") from error
        try:
            records = [FileRecord(entry["path"], entry["size"], entry["sha256"]) for entry in manifest["files"]]
        except (KeyError, TypeError) as error:
            raise self.corrupt(MANIFEST, "lists no files with path, size and sha256") from error
        if not all(_well_formed(record) for record in records):
            raise self.corrupt(MANIFEST, "lists a file with a wrong path, size or sha256")
        if not is_manifest_of(manifest, self.stage, self.key):
            raise self.corrupt(MANIFEST, f"is that of another artifact ({_named(manifest)}) or was edited")
        return records

    def check_size(self, record: FileRecord, marks: Mapping[str, _Mark | None]) -> None:
        if record.path not in marks:
            kind = "no longer a file" if (self.folder / record.path).is_dir() else "missing"
            raise self.corrupt(record.path, f"is {kind}")
        mark = marks[record.path]
        if mark is None:
            raise self.corrupt(record.path, "is no longer a file")
        if mark[1] != record.size:
            raise self.corrupt(record.path, f"has {mark[1]} bytes instead of {record.size}")

    def check_hash(self, record: FileRecord) -> None:
        try:
            sha256 = file_sha256(self.folder / record.path)
        except OSError as error:
            raise self.corrupt(record.path, f"cannot be read ({error.strerror})") from error
        if sha256 != record.sha256:
            raise self.corrupt(record.path, "was altered: its sha256 is not the one in the manifest")

    def corrupt(self, name: str, what: str) -> ArtifactCorruptError:
        return ArtifactCorruptError(
            f"The {self.stage} artifact {self.key[:8]} was asked for, but its file {name} {what}: delete "
            f"{self.folder} or rerun with runtime.force=[{self.stage}]."
        )


def _mark(entry: os.DirEntry[str]) -> _Mark | None:
    try:
        status = entry.stat()
    except OSError:  # a link to nothing
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _well_formed(record: FileRecord) -> bool:
    if not (isinstance(record.path, str) and type(record.size) is int and isinstance(record.sha256, str)):
        return False
    path = PurePosixPath(record.path)
    return not path.is_absolute() and ".." not in path.parts and path.as_posix() == record.path


def _named(manifest: Any) -> str:
    return f"{manifest.get('stage')} {str(manifest.get('key'))[:8]}"
