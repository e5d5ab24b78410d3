"""The autoencoder of a latent model: from latents to images, in full precision.

Rombach et al., CVPR 2022 (arXiv 2112.10752): what is diffused is the encoder's output times a scale factor (for a VQ model,
before the codes are looked up; its decoder looks them up).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models.files import read_json, require_weights, sha256_of
from dmq_cli.models.load import load_network
from dmq_cli.store.digest import digest

Decoder = Callable[[Tensor], Tensor]

_KINDS: dict[str, Any] = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL}
_UNSAID = {"VQModel": 1.0, "AutoencoderKL": 0.18215}


def first_stage_folder(path: Path) -> Path | None:
    """Where the autoencoder of a pipeline folder lies; None for a model of pixels."""
    return next((path / name for name in ("vqvae", "vae") if (path / name / "config.json").is_file()), None)


def load_decoder(path: Path, device: str | torch.device = "cpu") -> Decoder | None:
    """Latents (B, C, h, w) to images (B, channels, H, W), about [-1, 1], on the latents' device; None for a model of pixels.

    Raises ModelError for an autoencoder of another kind or without a positive scale factor.
    """
    folder = first_stage_folder(path)
    if folder is None:
        return None
    return decoder_of(load_network(_kind(folder), folder).to(device), scaling_factor(folder))


def _kind(folder: Path) -> Any:
    """diffusers' class. Raises ModelError for one that dmq does not decode with."""
    kind = read_json(folder / "config.json").get("_class_name")
    if kind not in _KINDS:
        raise ModelError(f"The first stage in {folder} is a {kind}; dmq decodes with {' or '.join(_KINDS)}.")
    return _KINDS[str(kind)]


def decoder_of(model: Any, scale: float) -> Decoder:
    """The decoder of an autoencoder of diffusers'. scale: what latents are multiplied by for the network."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def decode(latents: Tensor) -> Tensor:
        images: Tensor = model.decode(latents.to(device) / scale, return_dict=False)[0]
        return images.to(latents.device)

    return decode


def scaling_factor(folder: Path) -> float:
    """What latents are multiplied by for the network. Raises ModelError unless it is a positive number.

    Folders from before diffusers had the setting leave it out (CompVis/ldm-celebahq-256): then it is that of the published
    models, 1 for LDM's VQ. diffusers' own default for both kinds, 0.18215, gives grey images there (its issue 6725).
    """
    config = read_json(folder / "config.json")
    found = config.get("scaling_factor", _UNSAID.get(str(config.get("_class_name"))))
    if not isinstance(found, int | float) or isinstance(found, bool) or not (math.isfinite(found) and found > 0):
        raise ModelError(
            f"The first stage in {folder} has scaling_factor={found} in its config.json; put the positive number there that"
            " latents were multiplied by in training."
        )
    return float(found)


def first_stage_sha256(path: Path) -> str | None:
    """Hash of the autoencoder's configuration and weights; None for a model of pixels.

    Raises MissingWeightsError, and ModelError where `load_decoder` would.
    """
    folder = first_stage_folder(path)
    if folder is None:
        return None
    _kind(folder)
    scaling_factor(folder)
    return digest([sha256_of(folder / "config.json"), sha256_of(require_weights(folder))])
