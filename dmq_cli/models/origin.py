"""Load a model's network and noise schedule from its folder, or from a built-in architecture with random weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dmq_cli.errors import ConfigError, ModelError
from dmq_cli.models.adapter import Adapter
from dmq_cli.models.architectures import ARCHITECTURES
from dmq_cli.models.conditions import Conditions, conditions_sha256, load_conditions
from dmq_cli.models.expected import check_expected
from dmq_cli.models.first_stage import Decoder, Encoder, first_stage_sha256, load_decoder, load_encoder
from dmq_cli.models.folder import load_adapter, load_schedule, shapes_of_folder
from dmq_cli.models.probe import check_network, probe
from dmq_cli.models.random_weights import (
    random_adapter,
    random_conditions,
    random_decoder,
    random_encoder,
    random_is_latent,
    random_schedule,
    random_sha256,
    shapes_of_architecture,
)
from dmq_cli.models.weights import folder_sha256
from dmq_cli.obtain import find_network, has_weights
from dmq_cli.paths import resolve
from dmq_cli.store.hashing import file_sha256

# Entries that say how a model is found and checked; they are no part of its identity.
_ABOUT = ("latent", "expects", "parameters", "scaling_factor", "source", "made_with", "weights", "seed")


def identified(model: Mapping[str, Any]) -> dict[str, Any]:
    """Reduce a model's configuration to its identity, as it enters keys: with its sha256 and that of its first stage.

    `weights` and `seed` stay for random weights only. Checks the folder. Raises ConfigError for impossible weights or seeds,
    and as check_expected, folder_sha256 and check_network.
    """
    entries = {key: value for key, value in model.items() if key not in _ABOUT}
    _check_weights(model)
    if is_random(model):
        random_entries = {"weights": "random", "seed": model["seed"]}
        return {**entries, **random_entries, "sha256": random_sha256(model["name"], model["seed"])}
    check_expected(model)
    path = resolve(model["path"])
    sha256, autoencoder = folder_sha256(path), first_stage_sha256(path)
    check_network(path, sha256, autoencoder, conditions_sha256(path))
    return {**entries, "sha256": sha256, **({} if autoencoder is None else {"first_stage": autoencoder})}


def is_random(model: Mapping[str, Any]) -> bool:
    """Whether a model has random weights."""
    return model.get("weights") == "random"


def model_adapter(model: Mapping[str, Any]) -> Adapter:
    """The network, see load_adapter; float32, on the CPU. Raises ModelError where the folder is no longer what was identified."""
    if is_random(model):
        return random_adapter(model["name"], model["seed"])
    path = resolve(model["path"])
    loaded = load_adapter(path)
    _check_same(model, "sha256", folder_sha256(path), "network or its schedule")
    return loaded


def countable(model: Mapping[str, Any]) -> dict[str, Any]:
    """Make a model's configuration usable without weights, for shapes and schedule: its folder, else the built-in architecture.

    Raises what check_expected and probe raise for a folder that is not this model or cannot be called. A model that is neither
    on this machine nor built in comes back as it is; model_shapes refuses it.
    """
    path = resolve(model["path"])
    folder = find_network(path)
    if is_random(model) or (folder is not None and has_weights(folder)):
        if not is_random(model):
            check_expected(model)
            if "sha256" not in model:  # else it was identified, which probes
                probe(path)
        return dict(model)
    builtin = model["name"] in ARCHITECTURES and (
        "source" in model or "sha256" in model
    )  # by name, not a folder called so
    return {**model, "weights": "random", "seed": 0} if builtin else dict(model)


def model_shapes(model: Mapping[str, Any]) -> Adapter:
    """The network on the meta device: shapes without numbers, see shapes_of_folder."""
    return shapes_of_architecture(model["name"]) if is_random(model) else shapes_of_folder(resolve(model["path"]))


def model_schedule(model: Mapping[str, Any]) -> dict[str, Any]:
    """The noise schedule, see load_schedule."""
    return random_schedule(model["name"]) if is_random(model) else load_schedule(resolve(model["path"]))


def is_random_latent(model: Mapping[str, Any]) -> bool:
    """Whether the model has random weights, and a first stage, which then is in no folder."""
    return is_random(model) and random_is_latent(model["name"])


def model_decoder(model: Mapping[str, Any], device: str) -> Decoder | None:
    """From latents to images, see load_decoder."""
    if is_random(model):
        return random_decoder(model["name"], model["seed"], device)
    path = resolve(model["path"])
    loaded = load_decoder(path, device)
    _check_same(model, "first_stage", first_stage_sha256(path), "first stage")
    return loaded


def model_encoder(model: Mapping[str, Any], device: str) -> Encoder | None:
    """From images to latents, see load_encoder."""
    if is_random(model):
        return random_encoder(model["name"], model["seed"], device)
    return load_encoder(resolve(model["path"]), device)


def model_conditions(model: Mapping[str, Any], classes: Sequence[int] | None, prompts: str | None) -> Conditions | None:
    """Load the model's conditions, see load_conditions. Raises ModelError where files are no longer those in its `cond`."""
    cond = model.get("cond") or {}
    if (prompts_sha256 := cond.get("prompts")) and prompts and file_sha256(resolve(prompts)) != prompts_sha256:
        raise ModelError(
            f"The prompts in {prompts} are not those that this configuration was made for (sha256 {prompts_sha256[:16]}): the file was"
            " changed; run the command again, or give the file as it was."
        )
    if is_random(model):
        return random_conditions(model["name"], model["seed"], classes, prompts)
    if cond.get("encoder") is not None:
        _check_same(
            {**model, **cond, "path": model["path"]},
            "encoder",
            model_encoder_sha256(model),
            "text encoder or class embedding",
        )
    return load_conditions(resolve(model["path"]), classes, prompts)


def model_encoder_sha256(model: Mapping[str, Any]) -> str | None:
    """Hash the text encoder or class embedding; None for random weights, whose identity includes it."""
    return None if is_random(model) else conditions_sha256(resolve(model["path"]))


def has_mid_attention(model: Mapping[str, Any]) -> bool:
    """Whether the network has an attention in its mid-block."""
    return any(attention.part == "mid" for attention in model_shapes(model).attentions())


def _check_same(model: Mapping[str, Any], key: str, sha256: str | None, what: str) -> None:
    """Check, after reading files, that they are as when the model was identified. key: the model's entry with their hash."""
    if (expected := model.get(key)) is not None and sha256 != expected:
        raise ModelError(
            f"The {what} in {model['path']} has the sha256 {str(sha256)[:16]} and not {expected[:16]}, which this configuration was made"
            " for: its files were changed; run the command again, or give the folder as it was."
        )


def _check_weights(model: Mapping[str, Any]) -> None:
    weights, seed = model.get("weights", "file"), model.get("seed", 0)
    if weights not in ("file", "random"):
        raise ConfigError(f"model.weights={weights} is not known; use file or random.")
    if type(seed) is not int:
        raise ConfigError(f"model.seed={seed} is not possible; give a whole number.")
