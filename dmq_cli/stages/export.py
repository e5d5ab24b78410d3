"""The stage `export`: a quantized network, its correction and its sampler as one folder that diffusers and dmq load."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dmq_cli import __version__
from dmq_cli.deploy.backends import BACKENDS, Backend
from dmq_cli.deploy.folder import CORRECTION, METHOD, network_name, write_network
from dmq_cli.deploy.index import FORMAT, write_index
from dmq_cli.deploy.lower import integer_share, lower
from dmq_cli.deploy.processor import instruction_set
from dmq_cli.diagnose import stored_bytes
from dmq_cli.models import is_random, model_schedule
from dmq_cli.models.files import read_json
from dmq_cli.models.parts import NETWORKS
from dmq_cli.paths import resolve
from dmq_cli.stages import build
from dmq_cli.stages.exported import PROMPTS
from dmq_cli.stages.graph import Task
from dmq_cli.store import write_json
from dmq_cli.store.files import copy_file
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.wrap import Attached

_log = logging.getLogger("dmq")
_OWN = (*NETWORKS, "scheduler", "correction")
_LICENCE = "license:"


def export(task: Task) -> None:
    """Write the folder of the quantized network, see docs/guides/export.md."""
    attached = build.attached(task.config, task.runtime, task.inputs["reconstruct"])
    model, network = task.config["model"], network_name(attached.model)
    _copy_parts(model, task.work)
    if (prompts := (model.get("cond") or {}).get("path")) is not None:
        copy_file(str(resolve(prompts)), str(task.work / PROMPTS))
    corrected = load_tensors(task.inputs["correct"] / "tables.safetensors")
    about = _about(task, corrected)
    if (backend := BACKENDS.get(task.config["format"])) is not None:
        about |= _write_deployed(task, attached, backend)
    if backend is None or backend.write is None:
        _write_diffusers(task, attached, network, bool(corrected))
    write_json(task.work / "scheduler" / "scheduler_config.json", model_schedule(model))
    (task.work / "correction").mkdir()
    save_tensors(task.work / CORRECTION, corrected)
    write_index(
        task.work, {"format": FORMAT, METHOD: __version__, "config": dict(task.config), "about": about}
    )  # fmt: skip


def _write_diffusers(task: Task, attached: Attached, network: str, corrected: bool) -> None:
    """Packed integers, and the index by which DiffusionPipeline finds the parts."""
    bits = task.config["bits"]
    about = {"method": task.config["method"]["name"], "bits": {name: bits[name] for name in ("weight", "act")}}
    write_network(task.work / network, attached, {**about, "corrected": corrected})
    schedule = model_schedule(task.config["model"])
    parts = {network: ["diffusers", type(attached.model).__name__], "scheduler": ["diffusers", schedule["_class_name"]]}
    write_json(task.work / "model_index.json", {"_class_name": "DmqPipeline", **parts})


def _write_deployed(task: Task, attached: Attached, backend: Backend) -> dict[str, Any]:
    """The network as it runs in integers. Returns what the index says of it: which layers do, which do not and why."""
    limit = task.config["deployed"]["limit"]
    lowered = lower(attached, limit, backend.form)
    if backend.write is not None:
        backend.write(task.work, lowered)
    share = integer_share(attached, lowered)
    for name, reason in lowered.floating.items():
        _log.info("%s is computed in floating point: %s", name, reason)
    _log.info("%.1f %% of all multiplications are in integers (%s)", 100 * share, instruction_set())
    return {
        "integer_share": share,
        "integer": lowered.integer,
        "floating": lowered.floating,
        "limit": limit,
        "instruction_set": instruction_set(),
    }


def _about(task: Task, corrected: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of the network besides: which layers differ from the rest, cost as counted, and the licence of its base."""
    calibrated = task.inputs["calibrate"]
    cost = read_json(calibrated / "cost.json")
    stored = load_tensors(task.inputs["reconstruct"] / "quantizers.safetensors")
    size = cost["weight_bytes"] + cost["other_bytes"] + stored_bytes(stored) + stored_bytes(corrected)
    counts = {name: cost[name] for name in ("macs", "bops", "bops_fp", "size_bytes_fp", "deployable")}
    return {
        "policy": read_json(calibrated / "policy.json"),
        "cost": {**counts, "size_bytes": size},
        "licence": _licence(task.config["model"]),
    }


def _licence(model: Mapping[str, Any]) -> str | None:
    """The licence in the front matter of the base model's card; None where it says none."""
    card = resolve(model["path"]) / "README.md"
    if is_random(model) or not card.is_file():
        return None
    head = card.read_text(encoding="utf-8", errors="replace").removeprefix("---").partition("---")[0]
    named = [line.removeprefix(_LICENCE).strip() for line in head.splitlines() if line.startswith(_LICENCE)]
    return named[0] if named else None


def _copy_parts(model: Mapping[str, Any], target: Path) -> None:
    """Copy what the model has besides its network: first stage, text encoder, tokenizer, class embedding."""
    if is_random(model):
        return  # of pixels, see exported.deployment
    base = resolve(model["path"])
    for part in sorted(path for path in base.iterdir() if path.is_dir() and not path.name.startswith(".")):
        if part.name not in _OWN:
            shutil.copytree(part, target / part.name, copy_function=copy_file)
