"""Networks with seeded random weights in the architecture of a published model: for benchmarks and dry runs, never for results.

Every tensor is drawn on its own, from a generator seeded with (seed, its name), so it does not depend on the others.
Offsets are 0, the gains of norms 1, all else normal with a standard deviation of 1 / sqrt(fan_in).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError, nearest
from dmq_cli.models.adapter import Adapter
from dmq_cli.models.architectures import ARCHITECTURES
from dmq_cli.models.conditions import Conditions, Prompts, classes_of, labels_of, required_prompts
from dmq_cli.models.families import Told, family_of
from dmq_cli.models.first_stage import Decoder, Encoder, Latents, decoder_of, encoder_of
from dmq_cli.models.folder import adapted
from dmq_cli.models.importers.networks import build, create
from dmq_cli.models.importers.recipes import Network, Recipe
from dmq_cli.store.hashing import digest

_CLIP_TOKENS = 77  # of the texts of Stable Diffusion
_VERSION = 1  # of how numbers are drawn: raising it makes all random weights others


def random_network(name: str, seed: int, folder: str | None = None) -> nn.Module:
    """One network of a known model in eval mode, float32, without gradients.

    folder: which one, e.g. "vae"; None: the denoiser. Raises ConfigError for an unknown name.
    """
    networks = _architecture(name).networks
    network = next(candidate for candidate in networks if folder in (None, candidate.folder))
    with torch.random.fork_rng(devices=[]):  # building draws numbers, too
        model: nn.Module = create(network)
    fill(model, seed)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def fill(model: nn.Module, seed: int) -> None:
    """Overwrite all parameters."""
    for name, parameter in model.named_parameters():
        parameter.copy_(_drawn(name, parameter, seed))


def _drawn(name: str, like: Tensor, seed: int) -> Tensor:
    if like.dim() < 2:
        return torch.zeros_like(like) if name.endswith("bias") else torch.ones_like(like)
    return _noise([seed, name], like.shape) / math.sqrt(like[0].numel())


def _noise(key: list[Any], shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(int(digest([_VERSION, *key], length=15), 16))
    drawn: Tensor = torch.randn(*shape, generator=generator)
    return drawn


def random_adapter(name: str, seed: int) -> Adapter:
    """The adapter of a denoiser with random weights. Raises ConfigError for an unknown name."""
    return adapted(random_network(name, seed), _tokens(name))


def shapes_of_architecture(name: str) -> Adapter:
    """The adapter of a denoiser on the meta device: shapes without numbers. Raises ConfigError for an unknown name."""
    return adapted(build(_architecture(name).networks[0]), _tokens(name))


def _tokens(name: str) -> int:
    return _CLIP_TOKENS if _inputs(name).kind == "prompts" else 1


def random_is_latent(name: str) -> bool:
    """Whether a model with random weights has a first stage."""
    return _first_stage(name) is not None


def random_decoder(name: str, seed: int, device: str) -> Decoder | None:
    """See load_decoder. A scale that the checkpoint would say is 1."""
    if (stage := _first_stage(name)) is None:
        return None
    return decoder_of(
        random_network(name, seed, stage.folder).to(device), Latents(stage.config["scaling_factor"] or 1.0)
    )


def random_encoder(name: str, seed: int, device: str) -> Encoder | None:
    """See load_encoder; as random_decoder."""
    if (stage := _first_stage(name)) is None:
        return None
    network = random_network(name, seed, stage.folder).to(device)
    return encoder_of(network, Latents(stage.config["scaling_factor"] or 1.0))


def random_conditions(name: str, seed: int, classes: Sequence[int] | None, prompts: str | None) -> Conditions | None:
    """See load_conditions. A text becomes normal noise seeded with it, as there is no vocabulary without files."""
    networks, inputs = {network.folder: network.config for network in _architecture(name).networks}, _inputs(name)
    if inputs.kind == "prompts":
        width = int(networks["unet"]["cross_attention_dim"])
        return Prompts(required_prompts(prompts, name), lambda text: _noise([seed, text], (_CLIP_TOKENS, width)))
    if inputs.kind == "tokens":
        embedding = random_network(name, seed, "class_embedding")
        return classes_of(classes, int(networks["class_embedding"]["num_embeddings"]) - 1, embedding)
    return labels_of(classes, inputs) if inputs.kind == "labels" else None


def _inputs(name: str) -> Told:
    """Describe the condition that the denoiser of a known model reads, by its family."""
    denoiser, *parts = _architecture(name).networks
    family = family_of({**denoiser.config, "_class_name": denoiser.kind})
    return family.told(denoiser.config, [part.folder for part in parts]) if family else Told()


def random_schedule(name: str) -> dict[str, Any]:
    """The noise schedule of a known model. Raises ConfigError for an unknown name."""
    return dict(_architecture(name).schedule)


def random_first_stage_config(name: str) -> dict[str, Any] | None:
    """diffusers' configuration of the autoencoder of a known model, None where it has none. Raises as random_schedule."""
    stage = _first_stage(name)
    return None if stage is None else dict(stage.config)


def _first_stage(name: str) -> Network | None:
    return next((network for network in _architecture(name).networks if network.folder in ("vae", "vqvae")), None)


def random_sha256(name: str, seed: int) -> str:
    """The identity of a model with random weights: its architecture and its seed. Raises ConfigError for an unknown name."""
    recipe = _architecture(name)
    networks = [[network.folder, network.kind, dict(network.config)] for network in recipe.networks]
    return digest([_VERSION, seed, networks, dict(recipe.schedule)])


def _architecture(name: str) -> Recipe:
    if name not in ARCHITECTURES:
        raise ConfigError(
            f"model.weights=random was asked for {name}, whose architecture is not built in.{nearest(name, ARCHITECTURES)}"
        )
    return ARCHITECTURES[name]
