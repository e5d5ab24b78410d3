"""`dmq train`: train an embedded model and, with one of pixels, its feature extractor again, and write their card."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from dmq_cli.errors import ConfigError
from dmq_cli.metrics import Protocol, fidelity
from dmq_cli.metrics.fd import FrechetDistance
from dmq_cli.paths import PACKAGE, conf_folder
from dmq_cli.results.images import Pixels, load_images
from dmq_cli.results.record import flat, over_ranges
from dmq_cli.sampling import parse_ranges, show
from dmq_cli.stages import build
from dmq_cli.stages.card import write_card
from dmq_cli.stages.find_reference import real_images
from dmq_cli.stages.graph import Graph, Node, Task, with_code
from dmq_cli.stages.prepare import prepared
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.targets import trust
from dmq_cli.stages.verbs import graph, lock_of
from dmq_cli.store import create_run, environment, read_json, write_json
from dmq_cli.store.files import copy_file
from dmq_cli.zoo import (
    image_parts,
    memorisation,
    save_classifier,
    split,
    to_float,
    train_autoencoder,
    train_classifier,
    train_latent,
    train_unet,
)
from dmq_cli.zoo.training import StepReport

_NETWORKS = {
    "latent": "train_latent",
    "unet": "train_unet",
}  # sections of a configuration and the nodes that train by them
_RETRAINED = 0.5  # another seed, thread count or library moves the distance of a trained model by up to this fraction


def _training(section: str, train: Callable[..., dict[str, Any]]) -> Callable[[Task], None]:
    """A node's function: resumable training by `train` as config[section] says, on the models it needs."""

    def run(task: Task) -> None:
        first_stages = [folder / "model" for folder in task.inputs.values()]
        checkpoint, scratch = task.work / "checkpoint.safetensors", task.work / "tmp-checkpoint.safetensors"
        if scratch.exists():  # killed after the training, before the commit
            scratch.rename(checkpoint)
        record = train(build.make(task.config[section]), task.work, _reporter(task), *first_stages)
        checkpoint.rename(scratch)
        write_json(task.work / "training.json", record)

    return run


def _reporter(task: Task) -> StepReport:
    return lambda step, steps, loss: task.progress.update("step", step, steps, loss)


def _classifier(task: Task) -> None:
    model, card = train_classifier(build.make(task.config["classifier"]), _reporter(task))
    save_classifier(model, card, task.work)


NODES = {
    "train_unet": Node("train_unet", ("unet",), _training("unet", train_unet)),
    "train_classifier": Node("train_classifier", ("classifier",), _classifier),
    "train_autoencoder": Node("train_autoencoder", ("autoencoder",), _training("autoencoder", train_autoencoder)),
    "train_latent": Node("train_latent", ("latent",), _training("latent", train_latent), ("train_autoencoder",)),
}


def train(composed: Mapping[str, Any], command: str, quiet: bool = False) -> dict[str, Any]:
    """Train what config["train"] describes and return the places of the new weights.

    Writes outputs/runs/train/<time>-<key>/ with the model folder, the extractor's folder where it belongs to the model, and
    the card; with train.install=true it also replaces the weights inside the package. Training goes on where it was
    interrupted. The weights and a first card are in place before the images are measured. train.unet=null: the extractor alone.
    """
    trust(composed)
    if threads := composed["runtime"]["threads"]:
        torch.set_num_threads(threads)
    settings, progress = _settings(composed), Progress(quiet)
    stage_graph = Graph(NODES, graph(composed, progress).store, progress)
    sections = with_code({**composed, **settings}, NODES.values())
    node = next((node for section, node in _NETWORKS.items() if settings.get(section)), None)
    trained = stage_graph.store.verify(node, stage_graph.ensure(node, sections).name) if node else None
    extractor = stage_graph.ensure("train_classifier", sections) if settings.get("classifier") else None
    key = stage_graph.key(node or "train_classifier", sections)
    run = create_run(Path(composed["runtime"]["outputs"]) / "runs", "train", key, dict(composed), lock_of(composed))
    with run:
        places, card = {}, dict[str, Any]()
        if trained:
            places["model"] = _copy(trained / "model", run.path / settings["name"])
        if extractor:
            places["extractor"] = _copy(extractor, run.path / f"{settings['classifier'].get('data', 'digits')}_cnn")
        if node:
            card = {**_trained(stage_graph, node, sections), "command": command, "environment": environment()}
            _publish(places, card, settings["install"])
            card |= _quality(composed, places["model"], progress)
        _publish(places, card, settings["install"])
    return {"artifacts": {name: str(place) for name, place in places.items()}, "card": card}


def _settings(composed: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read the section train. Raises ConfigError where it does not describe the chosen model."""
    settings, model = composed.get("train", {}), composed["model"]["name"]
    if settings.get("name") != model:
        trainable = ", ".join(sorted(file.stem for file in (conf_folder() / "train").glob("*.yaml")))
        raise ConfigError(f"model={model} cannot be trained by dmq; it trains {trainable}.")
    return dict(settings)


def _copy(source: Path, folder: Path) -> Path:
    return Path(
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("manifest.json"), copy_function=copy_file)
    )


def _publish(places: Mapping[str, Path], card: Mapping[str, Any], install: bool) -> None:
    """Write the card into the model's folder, if it was trained, and, if asked for, copy all folders into the package."""
    if "model" in places:
        write_card(places["model"], card)
    for folder in places.values() if install else ():
        shutil.copytree(folder, PACKAGE / "zoo" / "weights" / folder.name, copy_function=copy_file, dirs_exist_ok=True)


def _trained(stage_graph: Graph, node: str, sections: Mapping[str, Any]) -> dict[str, Any]:
    """Read the record of the training, with that of the first stage under `autoencoder`."""
    record: dict[str, Any] = read_json(stage_graph.ensure(node, sections) / "training.json")
    for need in stage_graph.nodes[node].needs_for(sections):
        record[need.removeprefix("train_")] = read_json(stage_graph.ensure(need, sections) / "training.json")
    return record


def _quality(composed: Mapping[str, Any], folder: Path, progress: Progress) -> dict[str, Any]:
    """Measure the new model: Fréchet distance over the seed ranges, the floor at equal counts, and memorised images."""
    config, parts = prepared({**composed, "stage": "evaluate", "model": {**composed["model"], "path": str(folder)}})
    stage_graph, ranges = graph(config, progress), [show(r) for r in parse_ranges(config["seeds"])]
    numbers = [
        read_json(stage_graph.ensure("evaluate_fp", {**config, "seeds": r}) / "numbers.json")["numbers"] for r in ranges
    ]
    images = load_images(stage_graph.ensure("sample_fp", {**config, "seeds": ranges[0]}))
    protocol = parts.protocol
    distance = flat(over_ranges(numbers))
    return {
        "distance": distance,
        "interval": [
            round(max(0.0, distance["fd"] * (1 - _RETRAINED)), 2),
            round(distance["fd"] * (1 + _RETRAINED), 2),
        ],
        "seeds": ranges,
        "num_images": protocol.num_images,
        "num_inference_steps": config["sampler"]["num_inference_steps"],
        "guidance": config["cond"]["guidance"],
        "equal_counts": equal_counts(images, real_images(protocol, config["runtime"]["outputs"]), protocol),
        "memorisation": _memorisation(config, images),
    }


def equal_counts(images: Pixels, real: Pixels, protocol: Protocol, splits: int = 5) -> dict[str, Any]:
    """Fréchet distance of one half of the data to the other, and of as many samples to it: means over random splits."""
    rows = []
    for seed in range(splits):
        first, second = split(len(real), 0.5, seed)
        size = min(len(first), len(second), len(images))
        start = seed * min(10, (len(images) - size) // splits)
        half = replace(protocol, num_images=size, metrics={"fd": FrechetDistance()}, columns={})
        floor = fidelity(real[first[:size].numpy()], real[second[:size].numpy()], half)
        model = fidelity(images[start : start + size], real[second[:size].numpy()], half)
        rows.append({"floor": floor["fd"], "model": model["fd"]})
    return {"num_images": size, **flat(over_ranges(rows))}


def _memorisation(config: Mapping[str, Any], images: Pixels) -> dict[str, float]:
    settings = config["train"].get("unet") or config["train"]["latent"]
    (train_images, _), (held_out, _) = image_parts(settings, images.shape[1])
    samples = to_float(torch.from_numpy(images).permute(0, 3, 1, 2))
    return memorisation(samples, to_float(train_images), to_float(held_out))
