"""dmq.json: what an exported folder is, and the sha256 of each of its files.

Nothing of the folder is read before all of it is known to be as it was written. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError, ModelError
from dmq_cli.models.files import sha256_of
from dmq_cli.store import digest, file_sha256, read_json, write_json

FORMAT = 1
FILE = "dmq.json"
CARD = "README.md"
_SUM = "sha256"


def write_index(folder: Path, content: Mapping[str, Any]) -> None:
    """Write dmq.json over all files that are in the folder now. content: plain values, with the number of the format."""
    files = {name: file_sha256(path) for name, path in _files(folder).items()}
    entries = {**content, "files": files}
    write_json(folder / FILE, {**entries, _SUM: digest(entries, 64)})


def read_index(folder: Path) -> dict[str, Any]:
    """Read dmq.json and check every file that it names.

    Raises ModelError for a newer format, ArtifactCorruptError for a file that is missing or altered.
    """
    index = read_json(folder / FILE)
    if (
        not isinstance(index, dict)
        or not isinstance(index.get("files"), dict)
        or not isinstance(index.get("config"), dict)
    ):
        raise ArtifactCorruptError(f"{folder / FILE} describes no exported model; copy the folder again.")
    check_format(index.get("format"), folder)
    entries = {name: value for name, value in index.items() if name != _SUM}
    if digest(entries, 64) != index.get(_SUM):
        raise _altered(folder, FILE)
    present = _files(folder)
    for name, sha256 in index["files"].items():
        if name not in present or sha256_of(present[name]) != sha256:
            raise _altered(folder, name)
    return entries


def check_format(number: Any, folder: Path) -> None:
    """Raise ModelError for the number of a format that this version does not read."""
    if number != FORMAT:
        raise ModelError(
            f"The folder {folder} was exported in format {number}, and this version of dmq reads {FORMAT}; upgrade dmq, or export again."
        )


def is_exported(folder: Path) -> bool:
    """Whether a folder is one that dmq export wrote."""
    return (folder / FILE).is_file()


def _files(folder: Path) -> dict[str, Path]:
    """The files of the folder by name, but for dmq.json, the card, which may be edited, and what dmq keeps of an artifact."""
    unchecked = (FILE, CARD, "manifest.json")
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {name: path for name, path in paths.items() if name not in unchecked and not path.name.startswith(".")}


def _altered(folder: Path, name: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"The exported model in {folder} is not as it was written ({name} is missing or its sha256 differs); copy the folder again."
    )
