"""Check that the files in which a run or a cell records its result agree.

A run folder has config.json, manifest.json and metrics.json; a cell has the last two, the configuration's sha256 in its
metrics, and a name that ends in its key.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.store.files import read_json
from dmq_cli.store.hashing import digest

METRICS, MANIFEST, CONFIG, STATUS = "metrics.json", "manifest.json", "config.json", "status.json"


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON file that holds one object. Raises ArtifactCorruptError."""
    value = read_json(file)
    if not isinstance(value, dict):
        raise ArtifactCorruptError(
            f"{file} was to be read as a JSON object, but it holds a {type(value).__name__}: delete it and make it again."
        )
    return value


def check_recorded(folder: Path, metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Check that metrics.json, manifest.json and, of a run, config.json agree. Raises ArtifactCorruptError."""
    wrong = None
    if not isinstance(manifest.get("artifacts"), dict) or manifest["artifacts"] != metrics.get("artifacts"):
        wrong = f"{MANIFEST} and {METRICS} name different artifacts"
    elif (folder / CONFIG).is_file():
        if read_json(folder / CONFIG) != metrics.get("config"):
            wrong = f"{CONFIG} is not the configuration in {METRICS}"
    elif not _is_digest(metrics.get("config"), metrics.get("config_sha256")):
        wrong = f"the configuration in {METRICS} is not the one whose sha256 is beside it"
    elif not folder.resolve().name.endswith(f"-{str(manifest.get('key'))[:8]}"):
        wrong = f"{MANIFEST} has another key than the folder's name"
    if wrong is not None:
        raise ArtifactCorruptError(
            f"{folder} was to be read as a result, but {wrong}: a file was altered; run it again."
        )


def _is_digest(config: Any, sha256: Any) -> bool:
    try:
        return bool(digest(config) == sha256)
    except ConfigError:
        return False
