"""Turns an original checkpoint into a diffusers folder, once: aside first, then renamed, so never half a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import diffusers
from torch import Tensor

from dmq_cli.errors import ConfigError, ModelError, nearest
from dmq_cli.models.importers.keymap import collect
from dmq_cli.models.importers.networks import TEXTS, build, modules, target_tensors
from dmq_cli.models.importers.recipes import RECIPES, Network, Recipe
from dmq_cli.models.importers.shares import share
from dmq_cli.models.importers.state import State, read_state
from dmq_cli.models.importers.vocabulary import find_vocabulary, write_tokenizer
from dmq_cli.models.weights import folder_sha256
from dmq_cli.obtain import WEIGHTS
from dmq_cli.store.files import aside_folder, disk_errors, write_json
from dmq_cli.store.hashing import file_sha256
from dmq_cli.store.tensors import check_finite, save_tensors


@dataclass(frozen=True)
class Imported:
    """folder: the result; source_sha256: of the checkpoint; model_sha256: identity of the model, as runs record it.

    average: whether averages beside the weights were used instead of them; taken: the entry of the checkpoint that the weights
    come from, "" for all of it; beside: other entries with weights, which were not used.
    """

    folder: Path
    source_sha256: str
    model_sha256: str
    average: bool
    taken: str = ""
    beside: tuple[str, ...] = ()


def import_checkpoint(file: Path, name: str, folder: Path, tokenizer: Path | None = None) -> Imported:
    """Convert `file`, a published checkpoint known as `name`, into the new diffusers folder `folder`.

    tokenizer: the vocabulary of a model that reads texts, see find_vocabulary. Raises ConfigError for an unknown name or a
    folder that exists, MissingWeightsError or ModelError for a file that is not there or not of that architecture,
    NumericsError for NaN in it, DiskError. Then nothing is left behind.
    """
    if name not in RECIPES:
        raise ConfigError(f"There is no importer named {name}.{nearest(name, RECIPES)}")
    if folder.exists():
        raise ConfigError(f"The folder {folder} exists already; remove it or give another one with --to.")
    recipe, what = RECIPES[name], f"The checkpoint {file}, imported as {name},"
    vocabulary = find_vocabulary(recipe, tokenizer, what)
    state = read_state(file)
    networks, average = _networks(recipe, state, what)
    source = file_sha256(file)
    with disk_errors(folder.parent, f"Importing {file}"), aside_folder(folder) as scratch:
        for network, tensors in networks:
            write_network(scratch / network.folder, network, tensors)
        if vocabulary is not None:
            write_tokenizer(vocabulary, scratch / "tokenizer")
        write_rest(scratch, recipe)
        note = {"as": name, "file": file.name, "sha256": source, "average": average}
        chosen = {"entry": state.taken, "beside": list(state.beside)} if state.taken else {}
        write_json(scratch / "imported.json", note | chosen)
    return Imported(folder, source, folder_sha256(folder), average, state.taken, state.beside)


def _networks(recipe: Recipe, state: State, what: str) -> tuple[list[tuple[Network, dict[str, Tensor]]], bool]:
    """Every network with its tensors, checked; and whether they are averages."""
    shares = share(recipe, state.tensors, what)
    networks = []
    for network, share_tensors in zip(recipe.networks, shares.tensors, strict=True):
        tensors = collect(target_tensors(network), modules(network), share_tensors, what)
        check_finite(tensors, what)
        networks.append((_scaled(network, shares.scale, what), tensors))
    return networks, state.average or shares.average


def _scaled(network: Network, scale: float | None, what: str) -> Network:
    """The network with the scale of its latents, which LDM-8's checkpoint holds."""
    if "scaling_factor" not in network.config:
        return network
    if scale is None and network.config["scaling_factor"] is None:
        raise ModelError(f"{what} has no scale_factor for its latents; give the whole checkpoint of the latent model.")
    config = {**network.config, **({} if scale is None else {"scaling_factor": scale})}
    return Network(network.folder, network.kind, network.prefix, config)


def write_network(folder: Path, network: Network, tensors: Mapping[str, Tensor]) -> None:
    """Write config.json and the weights into the new folder `folder`."""
    folder.mkdir()
    model = build(network)
    texts = network.kind == TEXTS
    if hasattr(model, "save_config"):
        model.save_config(folder)
    else:
        kind = {"architectures": [TEXTS], "model_type": "clip_text_model"} if texts else {"_class_name": network.kind}
        write_json(folder / "config.json", {**kind, **network.config})
    save_tensors(folder / ("model.safetensors" if texts else WEIGHTS), tensors, {"format": "pt"})


def write_rest(folder: Path, recipe: Recipe) -> None:
    """Write the noise schedule and, where diffusers has a pipeline for it, model_index.json."""
    write_json(folder / "scheduler" / "scheduler_config.json", dict(recipe.schedule))
    if recipe.pipeline is not None:
        kinds = {network.folder: network.kind for network in recipe.networks}
        kinds["scheduler"] = recipe.schedule["_class_name"]
        parts = {part: ["transformers" if kind == TEXTS else "diffusers", kind] for part, kind in kinds.items()}
        index = {"_class_name": recipe.pipeline, "_diffusers_version": diffusers.__version__}
        write_json(folder / "model_index.json", {**index, **parts, **recipe.others})
