"""Where things lie in a diffusers folder, and its JSON files."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import MissingWeightsError, ModelError
from dmq_cli.obtain import WEIGHTS, find_network
from dmq_cli.store.digest import file_sha256


def network_folder(path: Path) -> Path:
    """Where config.json of the network lies: `path`/unet or `path`/transformer in a pipeline, `path` itself in a bare folder."""
    if folder := find_network(path):
        return folder
    if not path.is_dir():
        raise MissingWeightsError(
            f"The model folder {path} does not exist; give the path of a diffusers folder on this machine."
        )
    raise ModelError(
        f"The folder {path} was given as a model but has neither unet/config.json nor transformer/config.json nor config.json;"
        " give a diffusers folder."
    )


def network_config(path: Path) -> dict[str, Any]:
    """config.json of the network of the model at `path`. Raises as network_folder and read_json."""
    return read_json(network_folder(path) / "config.json")


def is_transformer(config: Mapping[str, Any]) -> bool:
    """Whether this is the configuration of a DiT: published ones call themselves Transformer2DModel."""
    return "num_embeds_ada_norm" in config and config.get("_class_name") != "UNet2DConditionModel"


def sha256_of(file: Path) -> str:
    """file_sha256, remembered as long as the file is not touched: every job of a sweep asks for gigabytes of weights."""
    stat = file.stat()
    return _sha256(file, stat.st_size, stat.st_mtime_ns, stat.st_ino)


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


def require_weights(folder: Path) -> Path:
    """The weights of the network in this folder. Raises MissingWeightsError, pickles do not count."""
    if (folder / WEIGHTS).is_file():
        return folder / WEIGHTS
    other = next((f.name for pattern in ("*.bin", "*.ckpt", "*.pt") for f in folder.glob(pattern)), None)
    hint = f" ({other} is a pickle, which dmq does not read)" if other else ""
    raise MissingWeightsError(
        f"The model folder {folder} has no {WEIGHTS}{hint}; save the model with safetensors and put that file there."
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ModelError for anything else."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError(f"it holds a {type(found).__name__}, not an object")
    except (OSError, ValueError) as error:
        raise ModelError(
            f"The file {path} could not be read as JSON ({error}); copy the model folder again."
        ) from error
    return found
