"""An exported folder as a model: its configuration in place of the user's, and its network without a calibration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmq_cli.deploy.backends import BACKENDS
from dmq_cli.deploy.index import FILE, is_exported, read_index
from dmq_cli.deploy.processor import weight_limit
from dmq_cli.errors import ConfigError, MissingWeightsError, ModelError, nearest
from dmq_cli.models import is_random, is_random_latent
from dmq_cli.obtain import find_network
from dmq_cli.paths import resolve
from dmq_cli.stages.targets import allowed, check_targets
from dmq_cli.store import file_sha256

SIMULATED = "simulated"
FORMATS = ("diffusers", *BACKENDS)
PROMPTS = "prompts.txt"
RUNTIME: Mapping[str, Any] = {"device": "cpu", "batch_size": 50, "guidance_calls": 1}
"""How an exported model runs in Python, until it is moved."""
_VERBS = ("sample", "evaluate")
_FREE = (
    "model",
    "seeds",
    "fp_seeds",
    "protocol",
    "runtime",
    "store",
    "table",
    "trace",
    "logger",
    "retry",
    "scale",
    "hydra",
    "stage",
)
"""First names of the words that say nothing of the network: all others were decided when it was exported."""


def check_export_format(name: str) -> None:
    """Raise ConfigError for a format that export does not write, or whose package is missing."""
    if name not in FORMATS:
        raise ConfigError(f"format={name} is not known; use {' or '.join(FORMATS)}.{nearest(str(name), FORMATS)}")
    if name in BACKENDS:
        BACKENDS[name].runtime()


def deployment(config: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of a configuration that runs, or is exported to run, in integers: backend, format and deployed; {} for others.

    Raises ConfigError for a backend that dmq does not know, or that does not fit the verb, the precision or the device.
    """
    backend, stage = config.get("backend", SIMULATED), config["stage"]
    if is_random_latent(config["model"]) and (stage == "export" or backend != SIMULATED):
        raise ConfigError(
            f"The model {config['model']['name']} with random weights was to be exported, but its first stage is in no folder; export a model of"
            " pixels, or one with weights."
        )
    check_backend(backend)
    if backend == SIMULATED:
        return {} if stage != "export" or config["format"] == "diffusers" else {"deployed": {"limit": weight_limit()}}
    if stage not in _VERBS:
        raise ConfigError(
            f"{stage} was asked for backend={backend}, which only samples; use it with sample or evaluate."
        )
    check_deployable(backend, config)
    return {"backend": backend, "format": backend, "deployed": {"limit": weight_limit()}}


def check_backend(name: str) -> None:
    """Raise ConfigError for a backend that dmq does not know."""
    if name not in (known := (SIMULATED, *BACKENDS)):
        raise ConfigError(f"backend={name} is not known; use {' or '.join(known)}.{nearest(str(name), known)}")


def check_deployable(backend: str, config: Mapping[str, Any]) -> None:
    """Raise ConfigError for a precision or device that no backend has, and where this one's package is missing."""
    numerics = config.get("numerics") or {}
    if numerics.get("dtype", "float32") != "float32" or config["runtime"]["device"] != "cpu":
        raise ConfigError(
            f"backend={backend} runs integers, and float32 around them, on the CPU; leave numerics and runtime.device as they are."
        )
    BACKENDS[backend].runtime()


def as_exported(config: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the sections of a composed configuration by those that its model, an exported folder, was made with.

    The same configuration where the model is none. Adds `exported`, its path and sha256. Raises ConfigError for a verb that an exported
    model does not have, and as read_index.
    """
    path = config["model"].get("path")
    if not isinstance(path, str) or not is_exported(folder := resolve(path)):
        return dict(config)
    if config["stage"] not in _VERBS:
        raise ConfigError(
            f"{config['stage']} was asked of the exported model {folder}, which is quantized already; use sample or evaluate, or give its base model."
        )
    recorded = recorded_config(folder)
    exported = {"path": str(folder), "sha256": file_sha256(folder / FILE), "format": recorded["format"]}
    prepared = {**config, **recorded, "trace": None, "exported": exported}
    if has_base(prepared):
        return prepared
    if config["stage"] == "evaluate":
        raise MissingWeightsError(
            f"{folder} was to be evaluated, but its base model {recorded['model']['name']}, whose images it is compared with, is not at"
            f" {recorded['model']['path']}; put it there, or sample from the folder alone by dmq sample."
        )
    return in_folder(prepared)


def has_base(config: Mapping[str, Any]) -> bool:
    """Whether the full-precision model is on this machine that an exported one was made from."""
    if is_random(config["model"]):
        return True
    folder = resolve(config["model"]["path"])
    return find_network(folder) is not None and not is_exported(folder)


def same_base(config: Mapping[str, Any], model: Mapping[str, Any]) -> Mapping[str, Any]:
    """The base model, identified, of an exported one. Raises ModelError where it is another than it was made from."""
    if (recorded := config["model"]["sha256"]) != model["sha256"]:
        raise ModelError(
            f"The base model {model.get('path')} of the exported {config['exported']['path']} is not the one that it was made from"
            f" (sha256 {model['sha256'][:16]} instead of {recorded[:16]}); put the former files back."
        )
    return model


def recorded_config(folder: Path) -> dict[str, Any]:
    """The configuration in an exported folder, with its own files as paths. Raises ConfigError for foreign classes; as read_index."""
    config: dict[str, Any] = read_index(folder)["config"]
    check_targets(config, allowed())
    cond = config["model"].get("cond")
    if cond is None or cond["path"] is None:
        return config
    return {**config, "model": {**config["model"], "cond": {**cond, "path": str(folder / PROMPTS)}}}


def in_folder(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with the exported folder as its model, where it has one: first stage and texts are read from there."""
    if "exported" not in config:
        return dict(config)
    return {**config, "model": {**config["model"], "path": config["exported"]["path"]}}


def check_exported_words(config: Mapping[str, Any], words: Sequence[str]) -> None:
    """Raise ConfigError for a word of the command line that an exported model cannot follow. config: as it was composed."""
    path = config["model"].get("path")
    if not isinstance(path, str) or not is_exported(folder := resolve(path)):
        return
    recorded = recorded_config(folder)
    same = {f"{section}={recorded[section]['name']}" for section in ("method", "bits")}
    for word in words:
        head = word.lstrip("+~").split("=")[0].split("/")[0].split(".")[0].split("@")[0]
        if "=" in word and head not in _FREE and word not in same:
            raise ConfigError(
                f"{word} was asked of the exported model {folder}, which is {recorded['method']['name']} {recorded['bits']['name']} as it was"
                " exported; leave it out, or give its base model."
            )
