"""`dmq train`: makes the embedded model and its feature extractor again, measures them and writes their card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dmq_cli.errors import ConfigError
from dmq_cli.metrics import Protocol, fidelity
from dmq_cli.paths import PACKAGE
from dmq_cli.sampling import parse_ranges, show
from dmq_cli.stages import build
from dmq_cli.stages.card import write_card
from dmq_cli.stages.graph import Graph, Node, Task
from dmq_cli.stages.images import Pixels, load_images, reference_images
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.results import spread_over
from dmq_cli.stages.verbs import graph
from dmq_cli.store import create_run, environment, read_json, write_json
from dmq_cli.zoo import digit_images, memorisation, save_classifier, split, to_float, train_classifier, train_unet

_RETRAINED = 0.5  # another seed, thread count or library moves the distance of a trained model by up to this fraction


def _unet(task: Task) -> None:
    found = train_unet(
        build.make(task.config["unet"]), task.work, lambda s, n, loss: task.progress.update("step", s, n, loss)
    )
    (task.work / "checkpoint.safetensors").rename(task.work / "tmp-checkpoint.safetensors")
    write_json(task.work / "training.json", found)


def _classifier(task: Task) -> None:
    model, card = train_classifier(
        build.make(task.config["classifier"]), lambda s, n, loss: task.progress.update("step", s, n, loss)
    )
    save_classifier(model, card, task.work)


NODES = {
    "train_unet": Node("train_unet", ("unet",), _unet),
    "train_classifier": Node("train_classifier", ("classifier",), _classifier),
}


def train(composed: Mapping[str, Any], command: str, quiet: bool = False) -> dict[str, Any]:
    """Train what config["train"] describes and return the places of the new weights.

    Writes outputs/runs/train/<time>-<key>/ with the model folder, the extractor's folder and the card; with
    train.install=true it also replaces the weights inside the package. Training goes on where it was interrupted.
    """
    if threads := composed["runtime"]["threads"]:
        torch.set_num_threads(threads)
    settings, progress = composed["train"], Progress(quiet)
    if composed["model"]["name"] != "ddim_digits":
        raise ConfigError(f"model={composed['model']['name']} cannot be trained by dmq; it trains ddim_digits.")
    made = Graph(NODES, graph(composed, progress).store, progress)
    sections = {**composed, "unet": settings["unet"], "classifier": settings["classifier"]}
    unet, classifier = made.ensure("train_unet", sections), made.ensure("train_classifier", sections)
    run = create_run(
        Path(composed["runtime"]["outputs"]) / "runs", "train", made.key("train_unet", sections), dict(composed)
    )
    folder, extractor = run.path / "ddim_digits", run.path / "digits_cnn"
    shutil.copytree(unet / "model", folder)
    shutil.copytree(classifier, extractor, ignore=shutil.ignore_patterns("manifest.json"))
    card = {**read_json(unet / "training.json"), **_quality(composed, folder, progress), "command": command}
    write_card(folder, {**card, "environment": environment()})
    if settings["install"]:
        for made_folder in (folder, extractor):
            shutil.copytree(made_folder, PACKAGE / "zoo" / "weights" / made_folder.name, dirs_exist_ok=True)
    run.finish("done")
    return {"artifacts": {"model": str(folder), "extractor": str(extractor)}, "card": card}


def _quality(composed: Mapping[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    """Fréchet distance of the new model over the seed ranges, the floor beside it, and a look for memorised images."""
    config = prepare({**composed, "stage": "evaluate", "model": {**composed["model"], "path": str(folder)}})
    made, ranges = graph(config, progress), [show(r) for r in parse_ranges(config["seeds"])]
    numbers = [
        read_json(made.ensure("evaluate_fp", {**config, "seeds": r}) / "numbers.json")["numbers"] for r in ranges
    ]
    images = load_images(made.ensure("sample_fp", {**config, "seeds": ranges[0]}))
    protocol: Protocol = build.make(config["protocol"])
    distance = spread_over(numbers)
    return {
        "distance": distance,
        "interval": [
            round(max(0.0, distance["fd"] * (1 - _RETRAINED)), 2),
            round(distance["fd"] * (1 + _RETRAINED), 2),
        ],
        "seeds": ranges,
        "num_images": protocol.num_images,
        "num_inference_steps": config["sampler"]["num_inference_steps"],
        "equal_counts": equal_counts(images, reference_images(protocol.reference, protocol.reference_path), protocol),
        "memorisation": _memorisation(config, images),
    }


def equal_counts(images: Pixels, real: Pixels, protocol: Protocol, splits: int = 5) -> dict[str, Any]:
    """Half of the data against the other half, and as many samples against the same half: means over random splits."""
    rows = []
    for seed in range(splits):
        one, two = split(len(real), 0.5, seed)
        size = min(len(one), len(two))
        half = Protocol(**{**_fields(protocol), "num_images": size, "metrics": ("fd",), "columns": {}})
        floor = fidelity(real[one[:size].numpy()], real[two[:size].numpy()], half)
        model = fidelity(images[seed * 10 : seed * 10 + size], real[two[:size].numpy()], half)
        rows.append({"floor": floor["fd"], "model": model["fd"]})
    return {"num_images": size, **spread_over(rows)}


def _fields(protocol: Protocol) -> dict[str, Any]:
    return {name: getattr(protocol, name) for name in protocol.__dataclass_fields__}


def _memorisation(config: Mapping[str, Any], images: Pixels) -> dict[str, float]:
    settings = config["train"]["unet"]
    real = to_float(digit_images()[0])
    train_rows, held_out = split(len(real), settings["held_out"], settings["seed"])
    samples = to_float(torch.from_numpy(images).permute(0, 3, 1, 2))
    return memorisation(samples, real[train_rows], real[held_out])
