"""List what outputs/ holds: runs, artifacts and how many runs need them, cells of tables. Reads JSON only; broken runs are marked.

Writes nothing, and opens every file once: a folder of thousands of artifacts is one scan.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.results.acting import from_command
from dmq_cli.results.naming import bits_name, stage_of
from dmq_cli.results.record import Evaluation, as_evaluation, metrics_files
from dmq_cli.store import ArtifactStore, is_alive, read_json
from dmq_cli.store.recorded import METRICS, read_object

Artifact = tuple[str, str]  # stage and key

STAGES: tuple[str, ...] = ("calibset", "transform", "calibrate", "training_set", "targets", "reconstruct", "correct")
STAGES += ("sample_fp", "sample", "trace", "evaluate_fp", "evaluate", "export")
SHARDS = ("shard_fp", "shard", "shard_calibset", "shard_features", "shard_features_fp", "shared_pass", "shared_unit")
TRAINED = ("train_unet", "train_classifier", "train_autoencoder", "train_latent")
"""Names of the stages of an experiment, of what several processes make meanwhile, and of the stages of `dmq train`, without importing torch."""


def runs(outputs: Path) -> list[dict[str, Any]]:
    """Describe every run, oldest first.

    time, verb, model, method, bits; overrides: others that had an effect; protocol, images (in each seed range), budget; state:
    done, running, killed, "failed: ..." or broken; numbers: of an evaluation, by the headings of its protocol; measured: by their
    keys; run: the folder.
    """
    return sorted(
        (run_row(folder) for folder in run_folders(outputs)), key=lambda row: str(row["run"]).rpartition("/")[2]
    )


def run_folders(outputs: Path) -> list[Path]:
    """List outputs/runs/<verb>/<time>-<key> of every run, finished or not."""
    folders = (outputs / "runs").glob("*/*")
    return sorted(folder for folder in folders if folder.is_dir() and folder.parent.name != "multirun")


def run_row(folder: Path) -> dict[str, Any]:
    """The row of one run in `runs`."""
    row: dict[str, Any] = dict.fromkeys(("time", "model", "method", "bits", "protocol", "images", "budget"), "")
    row |= {"overrides": [], "numbers": {}, "measured": {}}
    row |= {"verb": folder.parent.name, "run": str(folder), "state": "broken"}
    try:
        config, status = read_json(folder / "config.json"), read_json(folder / "status.json")
        row |= {name: str(config[name]["name"]) for name in ("model", "method")} | {"bits": bits_name(config["bits"])}
        row["time"] = str(status["started"])
        row |= _describe_request(folder, config)
        if folder.parent.name == "evaluate" and status["status"] == "done":
            evaluation = as_evaluation(read_object(folder / METRICS), folder / METRICS)
            row |= {"numbers": numbers(evaluation), "measured": _measured(evaluation)}
        row["state"] = "killed" if status["status"] == "running" and not is_alive(folder) else str(status["status"])
    except (ArtifactCorruptError, KeyError, TypeError, AttributeError):
        row["state"] = "broken"
    return row


def _describe_request(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Read protocol, images, budget and overrides; a run that does not record overrides has the words of its command."""
    measured = folder.parent.name == "evaluate"
    row = {
        "protocol": config.get("protocol", {}).get("name", "") if measured else "",
        "images": _count(config.get("seeds")) if measured or folder.parent.name == "sample" else "",
        "budget": config.get("budget", {}).get("name", ""),
    }
    if "overrides" in config:
        return {**row, "overrides": list(config["overrides"])}
    manifest = folder / "manifest.json"
    command = read_json(manifest).get("command", "") if manifest.is_file() else ""
    return {**row, "overrides": from_command(str(command))}


def _count(seeds: Any) -> int | str:
    """Count the images in each seed range; "" for a value that is not a range."""
    first = seeds[0] if isinstance(seeds, list) and seeds else seeds
    ends = re.fullmatch(r"(\d+)(?:-(\d+))?", str(first))
    return "" if ends is None else int(ends[2] or ends[1]) - int(ends[1]) + 1


def _measured(evaluation: Evaluation) -> dict[str, float]:
    columns = evaluation.protocol["columns"]
    shown = {key: evaluation.quantized[key].value for key in columns if key in evaluation.quantized}
    return {**shown, **({"psnr": evaluation.paired["psnr"].value} if "psnr" in evaluation.paired else {})}


def numbers(evaluation: Evaluation) -> dict[str, float]:
    """Select the headline numbers by their headings: those the protocol has columns for, and PSNR."""
    names = {**evaluation.protocol["columns"], "psnr": "PSNR"}
    return {str(names[key]): value for key, value in _measured(evaluation).items()}


def artifacts(outputs: Path) -> list[dict[str, Any]]:
    """List stage, key, bytes, age (seconds) and used (number of runs and cells) of every artifact."""
    store, used, now = ArtifactStore(outputs / "artifacts"), needed(outputs), time.time()
    rows = []
    for stage, key in stored(store):
        folder = store.root / stage / key
        with suppress(FileNotFoundError):  # removed meanwhile
            age = max(0.0, now - folder.stat().st_mtime)
            rows.append({"stage": stage, "key": key, "bytes": size(folder), "age": age, "used": used[stage, key]})
    return rows


def stored(store: ArtifactStore) -> Iterator[Artifact]:
    """Yield stage and key of every artifact."""
    for stage in stages(store):
        yield from ((stage, key) for key in store.keys(stage))


def stages(store: ArtifactStore) -> list[str]:
    """List the stages that have a folder in the store."""
    return sorted(folder.name for folder in store.root.glob("*") if folder.is_dir())


def size(folder: Path) -> int:
    """Count the bytes of all files below a folder, not following links; 0 where it is gone."""
    total, waiting = 0, [os.fspath(folder)]
    while waiting:
        with suppress(OSError), os.scandir(waiting.pop()) as entries:  # removed meanwhile
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(entry.path)
                else:
                    total += entry.stat(follow_symlinks=False).st_size
    return total


def needed(outputs: Path) -> Counter[Artifact]:
    """Count the runs and cells that need each artifact, by their manifests and, for runs, their links."""
    counts: Counter[Artifact] = Counter()
    for folder in run_folders(outputs):
        counts.update(_named(folder) | set(_linked(folder)))
    for manifest in (outputs / "tables").glob("*/*/manifest.json"):
        counts.update(_named(manifest.parent))
    return counts


def _named(folder: Path) -> set[Artifact]:
    """Read the artifacts that the manifest of a run or cell names; none if it is missing or cannot be read."""
    try:
        names = read_json(folder / "manifest.json")["artifacts"].items()
    except (ArtifactCorruptError, KeyError, TypeError, AttributeError):
        return set()
    return {(stage_of(str(name)), str(key)) for name, key in names}


def _linked(folder: Path) -> Iterator[Artifact]:
    with suppress(OSError), os.scandir(folder / "artifacts") as links:
        for link in links:
            with suppress(OSError):
                stage, _, key = os.readlink(link.path).rpartition("/")
                yield stage.rpartition("/")[2], key


def cells(outputs: Path) -> Counter[str]:
    """Count the finished cells of each table."""
    return Counter(folder.name for folder in (outputs / "tables").glob("*") for _ in metrics_files(folder))
