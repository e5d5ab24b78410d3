"""Write files so that a kill leaves the old one or the new one, never half of one; turn disk errors into sentences."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from dmq_cli.errors import ArtifactCorruptError, DiskError, NumericsError

_DEEPEST = 100
ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space, or choose another folder"),
    errno.EROFS: "that disk can only be read: choose another folder, or mount it writable",
    **dict.fromkeys((errno.EACCES, errno.EPERM), "make the folder writable for you, or choose another one"),
}
"""What to do about an error of the disk."""
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES)


def fsync(path: Path) -> None:
    """Wait until a file or folder is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def aside(path: Path) -> Iterator[Path]:
    """Give a scratch path beside `path`, which is renamed to `path` at the block's end.

    The name starts with "." and ends with ".tmp", so that a commit sweeps away what a kill left. Creates the
    parent folder. After an exception the scratch file is removed and `path` is as before. An OSError that names no
    file, as those of writing do not, names `path`.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with naming(path, scratch):
            yield scratch
            fsync(scratch)
            os.replace(scratch, path)
    finally:
        with suppress(OSError):  # what went wrong before is what counts
            scratch.unlink(missing_ok=True)


@contextmanager
def naming(path: Path, scratch: Path | None = None) -> Iterator[None]:
    """Put `path` into an OSError of the block that names no file (as of a full disk), or that names `scratch`."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(scratch), scratch):
            error.filename, error.filename2 = str(path), None
        raise


@contextmanager
def aside_folder(folder: Path) -> Iterator[Path]:
    """Give a new folder beside `folder` that is renamed to it at the block's end, or removed after an exception."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.tmp")
    scratch.mkdir()
    try:
        yield scratch
        fsync(scratch)
        scratch.rename(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_json(path: Path, value: object) -> None:
    """Write a plain value as JSON (indent 1). Raises NumericsError for NaN or infinity; OSError."""
    try:
        text = json.dumps(value, indent=1, allow_nan=False)
    except ValueError as error:
        raise NumericsError(
            f"{path} was to be written as JSON, but a value in it is NaN or infinite: look for the step that made it."
        ) from error
    write_text(path, text + "\n")


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, aside and renamed. Raises OSError."""
    with aside(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def copy_file(source: str, target: str) -> str:
    """Copy one file's bytes, aside and renamed: what shutil.copytree takes as its copy_function. Raises OSError."""
    with aside(Path(target)) as scratch:
        shutil.copyfile(source, scratch)
    return target


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises ArtifactCorruptError if it is missing, unreadable, malformed, very deep or holds NaN."""
    try:
        return _not_too_deep(json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant))
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactCorruptError(
            f"{path} was to be read as JSON, but it cannot be ({reason}): delete it and make it again."
        ) from error


def _not_too_deep(value: Any) -> Any:
    """Return the value if it is not nested too deep for functions that recurse. Raises ValueError."""
    level = [value]
    for _ in range(_DEEPEST):
        lists = [item.values() if isinstance(item, dict) else item for item in level if isinstance(item, dict | list)]
        if not lists:
            return value
        level = [child for children in lists for child in children]
    raise ValueError(f"it is nested more than {_DEEPEST} deep")


def hold_json(folder: Path, *names: str) -> bool:
    """Whether a folder has all these files, each of them whole: a JSON object that can be read."""
    try:
        return all(isinstance(read_json(folder / name), dict) for name in names)
    except ArtifactCorruptError:
        return False


@contextmanager
def disk_errors(where: Path, doing: str) -> Iterator[None]:
    """Turn "disk full", "over quota", "read-only" and "not allowed" in the block into a DiskError.

    Other errors pass. where: the folder whose free space is named. doing: the sentence's start, such as
    "Computing sample 8f3a1b2c".
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _DISK_ERRNOS:
            raise
        path = error.filename or where
        free = f" ({_free(where)} free there)" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise DiskError(
            f"{doing} stopped at {path}: {os.strerror(error.errno)}{free}; {ADVICE[error.errno]}, then run the same command again."
        ) from error


def free_bytes(where: Path) -> int | None:
    """Free bytes of the disk that holds `where`, which need not exist yet; None where that cannot be read."""
    for folder in (where, *where.absolute().parents):
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            continue
    return None


def _free(where: Path) -> str:
    free = free_bytes(where)
    return "an unknown amount" if free is None else f"{free / 1e9:.2f} GB"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}")
