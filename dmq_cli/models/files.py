"""Find and read the files of a diffusers folder."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import ModelError
from dmq_cli.store.hashing import file_sha256


def class_name(config: Mapping[str, Any]) -> str:
    """The class that a config.json names, in diffusers' way or in transformers', fit to be printed; "" if none."""
    named = config.get("_class_name") or config.get("architectures") or config.get("model_type") or ""
    text = str(named[0] if isinstance(named, list) and named else named)[:80]
    return text if text.isprintable() else repr(text)


def sha256_of(file: Path) -> str:
    """file_sha256, remembered as long as the file is not touched: every job of a sweep asks for gigabytes of weights."""
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev)


@functools.lru_cache(maxsize=256)
def _sha256(file: Path, *_: int) -> str:
    return file_sha256(file)


def schedule_file(path: Path) -> Path:
    """The scheduler's configuration. Raises ModelError if there is none."""
    for file in (path / "scheduler" / "scheduler_config.json", path / "scheduler_config.json"):
        if file.is_file():
            return file
    raise ModelError(
        f"The model folder {path} has no scheduler/scheduler_config.json, so its noise schedule is unknown; add that file."
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__}, not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(
            f"The file {path} could not be read as JSON ({error}); copy the model folder again."
        ) from error
    return content
