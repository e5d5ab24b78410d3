"""Downloads a model's diffusers folder from its hub repository: only when asked, only what is needed, never a pickle."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils.tqdm import disable_progress_bars

from dmq_cli.errors import ConfigError, DmqError, MissingWeightsError
from dmq_cli.models.expected import check_expected
from dmq_cli.models.files import read_json
from dmq_cli.models.folder import load_adapter
from dmq_cli.models.parts import first_stage_folder
from dmq_cli.models.weights import TEXT_WEIGHTS, folder_sha256
from dmq_cli.obtain import WEIGHTS, missing, remedy
from dmq_cli.store.files import aside_folder, disk_errors, write_json

_PARTS = ("unet", "transformer", "vae", "vqvae")
_NETWORK = rf"(({'|'.join(_PARTS)}|text_encoder)/)?config\.json"


def _files(name: str) -> str:
    """A pattern of the files that weights are in: one, or shards and their index."""
    return rf"{re.escape(name.removesuffix('.safetensors'))}(-\d+-of-\d+)?\.safetensors(\.index\.json)?"


_NEEDED = (
    _NETWORK,
    r"model_index\.json|(scheduler/)?scheduler_config\.json",
    rf"(({'|'.join(_PARTS)})/)?{_files(WEIGHTS)}",
    rf"text_encoder/{_files(TEXT_WEIGHTS)}",
    r"tokenizer/[\w.-]+\.(json|txt)",
)
_SHARD = re.compile(r"(-\d+-of-\d+)?\.safetensors\.index\.json|-\d+-of-\d+\.safetensors")


def needed(files: Iterable[str]) -> list[str]:
    """Select a model's files from all names in a repository: configurations, safetensors in full precision, the tokenizer.

    Shards and their index only where there is no single file.
    """
    names = [name for name in files if any(re.fullmatch(pattern, name) for pattern in _NEEDED)]
    return [name for name in names if _SHARD.sub("", name) == name or _SHARD.sub(".safetensors", name) not in names]


def fetch_model(model: Mapping[str, Any], folder: Path, quiet: bool = False) -> str:
    """Download a model of conf/model into the new folder `folder`; its sha256, as runs record it. quiet: no progress.

    Raises ConfigError for a folder that exists or a model without source, MissingWeightsError where nothing can be
    downloaded, ModelError for another model than it should be, DiskError. Then nothing is left behind.
    """
    _require_repo(model)
    if folder.exists():
        raise ConfigError(f"The folder {folder} exists already; remove it or give another one with --to.")
    if quiet:
        disable_progress_bars()
    with disk_errors(folder.parent, f"Fetching {model['name']}"), aside_folder(folder) as scratch:
        _download(model, scratch)
        shutil.rmtree(scratch / ".cache", ignore_errors=True)  # the hub's own notes
        _say_scale(scratch, model)
        check_expected({**model, "path": str(scratch)})
        load_adapter(scratch)
        sha256 = folder_sha256(scratch)
    return sha256


def _require_repo(model: Mapping[str, Any]) -> None:
    if "source" not in model:
        raise ConfigError(
            f"The model {model['name']} comes with dmq or is a folder of yours, so there is nothing to fetch; use it as it is."
        )
    if not model["source"]["repo"]:
        raise MissingWeightsError(
            missing(model) or f"The model {model['name']} is in no repository of the hub; {remedy(model)}."
        )


def _download(model: Mapping[str, Any], folder: Path) -> None:
    repo, endpoint = model["source"]["repo"], os.environ.get("HF_ENDPOINT")
    try:
        info = HfApi(endpoint=endpoint).model_info(repo)
        files = needed(sibling.rfilename for sibling in info.siblings or [])
        _require_safetensors(repo, files)
        snapshot_download(repo, revision=info.sha, local_dir=folder, allow_patterns=files, endpoint=endpoint)
    except DmqError:
        raise
    except Exception as error:  # the hub, its transport and the disk each have their own
        if getattr(error, "errno", None) is not None:
            raise  # of the disk
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise MissingWeightsError(
            f"The repository {repo} was to be fetched from {endpoint or 'https://huggingface.co'}, but that failed ({text}); try again where"
            " there is a network, or copy the folder from another machine and give it as model.path=FOLDER."
        ) from error


def _require_safetensors(repo: str, files: Sequence[str]) -> None:
    """Every network that the repository has must be there without a pickle."""
    for folder in (name.removesuffix("config.json") for name in files if re.fullmatch(_NETWORK, name)):
        if not any(name.startswith(folder) and name.endswith(".safetensors") for name in files):
            raise MissingWeightsError(
                f"The repository {repo} was to be fetched, but {folder or 'its network'} has no weights in safetensors in full"
                " precision, and dmq reads no pickles; save the model with safetensors elsewhere and give that folder as model.path=FOLDER."
            )


def _say_scale(folder: Path, model: Mapping[str, Any]) -> None:
    """Write the published scale of the latents into the first stage's configuration, if that is older than the key."""
    stage, scale = first_stage_folder(folder), model.get("scaling_factor")
    if stage is None or scale is None:
        return
    config = read_json(stage / "config.json")
    if "scaling_factor" not in config:
        write_json(stage / "config.json", {**config, "scaling_factor": scale})
