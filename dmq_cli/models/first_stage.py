"""The autoencoder of a latent model: from latents to images, in full precision.

Rombach et al., CVPR 2022 (arXiv 2112.10752): what is diffused is the encoder's output times a scale factor (for a VQ model,
before the codes are looked up; its decoder looks them up).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor

from dmq_cli.errors import ModelError
from dmq_cli.models.configs import built, component_config
from dmq_cli.models.files import sha256_of
from dmq_cli.models.load import load_network
from dmq_cli.models.parts import first_stage_folder
from dmq_cli.models.weights import weight_files
from dmq_cli.store.hashing import digest

Decoder = Callable[[Tensor], Tensor]
Encoder = Callable[[Tensor], Tensor]

_KINDS: dict[str, Any] = {"VQModel": VQModel, "AutoencoderKL": AutoencoderKL}
_UNSAID = {"VQModel": 1.0, "AutoencoderKL": 0.18215}


@dataclass(frozen=True)
class Latents:
    """How a network's latents z become those of its autoencoder: z * std / scale + shift.

    std, shift: one number, or one for each channel.
    """

    scale: float
    std: tuple[float, ...] = (1.0,)
    shift: tuple[float, ...] = (0.0,)

    def restored(self, latents: Tensor) -> Tensor:
        """The autoencoder's latents (B, C, H, W). At the default std and shift nothing but a division happens."""
        scaled = latents
        if self.std != (1.0,):
            scaled = scaled * _channels(self.std, latents)
        scaled = scaled / self.scale
        return scaled if self.shift == (0.0,) else scaled + _channels(self.shift, latents)

    def diffused(self, latents: Tensor) -> Tensor:
        """The network's latents from the autoencoder's (B, C, H, W): the inverse of `restored`."""
        return (latents - _channels(self.shift, latents)) * self.scale / _channels(self.std, latents)


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like.dtype, device=like.device).view(1, -1, 1, 1)


def load_decoder(path: Path, device: str | torch.device = "cpu") -> Decoder | None:
    """Latents (B, C, h, w) to images (B, channels, H, W), about [-1, 1], on the latents' device; None for a model of pixels.

    Raises ModelError for an autoencoder of another kind or without a positive scale factor.
    """
    folder = first_stage_folder(path)
    if folder is None:
        return None
    return decoder_of(load_network(_kind(folder), folder).to(device), latents_of(folder))


def load_encoder(path: Path, device: str | torch.device = "cpu") -> Encoder | None:
    """Images (B, channels, H, W) in [-1, 1] to the latents that are diffused, on the images' device; None for a model of pixels.

    Of a distribution of latents it is the most likely one. Raises as `load_decoder`.
    """
    folder = first_stage_folder(path)
    if folder is None:
        return None
    return encoder_of(load_network(_kind(folder), folder).to(device), latents_of(folder))


def encoder_of(model: Any, latents: Latents) -> Encoder:
    """Wrap a diffusers autoencoder as an encoder; see `decoder_of`."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def encode(images: Tensor) -> Tensor:
        code = model.encode(images.to(device))
        latent = code.latents if hasattr(code, "latents") else code.latent_dist.mode()
        return latents.diffused(latent).to(images.device)

    return encode


def shapes_of_decoder(path: Path) -> Decoder | None:
    """load_decoder on the meta device: shapes without numbers; weights need not be there."""
    folder = first_stage_folder(path)
    if folder is None:
        return None
    return decoder_of(built(_kind(folder), folder, component_config(folder), meta=True), latents_of(folder))


def _kind(folder: Path) -> Any:
    """diffusers' class. Raises ModelError for one that dmq does not decode with."""
    kind = component_config(folder).get("_class_name")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ModelError(f"The first stage in {folder} is a {kind}; dmq decodes with {' or '.join(_KINDS)}.")
    return _KINDS[kind]


def decoder_of(model: Any, latents: Latents) -> Decoder:
    """Wrap a diffusers autoencoder as a decoder. latents: how to rescale the network's latents to the autoencoder's."""
    device = next(model.parameters()).device

    @torch.inference_mode()
    def decode(sample: Tensor) -> Tensor:
        images: Tensor = model.decode(latents.restored(sample.to(device)), return_dict=False)[0]
        return images.to(sample.device)

    return decode


def latents_of(folder: Path) -> Latents:
    """Read scale, shift, mean and standard deviation of the latents from config.json. Raises ModelError.

    As in diffusers' pipelines: a shift_factor is added after the division (Stable Diffusion 3); latents_mean and latents_std
    are of each channel (Stable Diffusion XL), and either comes without the other.
    """
    config, scale = component_config(folder), scaling_factor(folder)
    mean, std = config.get("latents_mean"), config.get("latents_std")
    shift = config.get("shift_factor")
    if (mean is None) != (std is None) or (mean is not None and shift):
        raise ModelError(
            f"The first stage in {folder} has latents_mean={mean}, latents_std={std} and shift_factor={shift}, and they belong"
            " together as mean with std, or the shift alone; correct its config.json."
        )
    if mean is None:
        return Latents(scale, shift=_finite(folder, "shift_factor", [shift or 0.0], 1))
    channels = config.get("latent_channels", 4)
    stds = _finite(folder, "latents_std", std, channels)
    return Latents(scale, stds, _finite(folder, "latents_mean", mean, channels))


def _finite(folder: Path, name: str, values: object, count: int) -> tuple[float, ...]:
    numbers = values if isinstance(values, list) else []
    proper = all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers)
    if len(numbers) != count or not proper or (name == "latents_std" and min(numbers) <= 0):
        raise ModelError(
            f"The first stage in {folder} has {name}={values}, and {count} finite numbers are needed; correct its config.json."
        )
    return tuple(map(float, numbers))


def scaling_factor(folder: Path) -> float:
    """Read the factor of latents for the network. Raises ModelError unless it is a positive number.

    Folders from before diffusers had the setting leave it out (CompVis/ldm-celebahq-256): then it is that of the published
    models, 1 for LDM's VQ. diffusers' own default for both kinds, 0.18215, gives grey images there (its issue 6725).
    """
    config = component_config(folder)
    scale = config.get("scaling_factor", _UNSAID.get(str(config.get("_class_name"))))
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not (math.isfinite(scale) and scale > 0):
        raise ModelError(
            f"The first stage in {folder} has scaling_factor={scale} in its config.json; put the positive number there that"
            " latents were multiplied by in training."
        )
    return float(scale)


def first_stage_sha256(path: Path) -> str | None:
    """Hash of the autoencoder's configuration and weights; None for a model of pixels.

    Raises MissingWeightsError, and ModelError where `load_decoder` would.
    """
    folder = first_stage_folder(path)
    if folder is None:
        return None
    _kind(folder)
    latents_of(folder)
    return digest([sha256_of(file) for file in (folder / "config.json", *weight_files(folder))])
