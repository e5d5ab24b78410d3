"""Trains the first stages of the embedded latent models: digits of 32x32 pixels to latents of 8x8 and back.

Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022 (arXiv 2112.10752), section 3.1: an
autoencoder with a codebook (VQ) or with a slight pull of its latents towards the normal distribution (KL). The error is the
mean square alone, without the perceptual and adversarial terms: the digits have nothing that those would keep.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from dmq_cli.models.importers.convert import write_network
from dmq_cli.models.importers.networks import create
from dmq_cli.models.importers.recipes import Network
from dmq_cli.zoo.digits import digit_images, split, to_float
from dmq_cli.zoo.training import StepReport, Training, TrainingRun

SIZE = 32  # pixels
_SHAPE: dict[str, Any] = {
    "sample_size": SIZE,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (16, 32, 32),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
}
VQ = Network("vqvae", "VQModel", "", {**_SHAPE, "latent_channels": 3, "vq_embed_dim": 3, "num_vq_embeddings": 256})
KL = Network("vae", "AutoencoderKL", "", {**_SHAPE, "latent_channels": 4})
_KINDS = {"vq": VQ, "kl": KL}
_PULL = 1e-4  # weight of the divergence from the normal distribution, per latent number, beside the error per pixel


@dataclass(frozen=True)
class AutoencoderTraining(Training):
    """Training of an autoencoder. kind: with a codebook ("vq") or with a normal distribution ("kl")."""

    kind: Literal["vq", "kl"] = "vq"


def train_autoencoder(config: AutoencoderTraining, work: Path, report: StepReport) -> dict[str, Any]:
    """Train, going on from the checkpoint in `work` if there is one; write `work`/model/vqvae or `work`/model/vae.

    Its scaling_factor makes the standard deviation of the training images' latents 1. Returns the mean squared errors per
    pixel of [-1, 1] of the averaged weights on both parts of the data.
    """
    torch.manual_seed(config.seed)
    network = _KINDS[config.kind]
    model, images = create(network), to_float(digit_images(SIZE)[0])
    train, held_out = split(len(images), config.held_out, config.seed)

    def loss(model: nn.Module, rows: Tensor, generator: torch.Generator) -> Tensor:
        return _loss(model, images[train[rows]], generator)

    average = TrainingRun(config, model, work, len(train), loss).finish(report)
    scale = 1 / float(encode(average, images[train]).std())
    shutil.rmtree(work / "model", ignore_errors=True)
    (work / "model").mkdir(parents=True)
    write_half(work / "model", replace(network, config={**network.config, "scaling_factor": scale}), average)
    return {
        "training": asdict(config),
        "parameters": sum(p.numel() for p in model.parameters()),
        "error_train": _error(average, images[train]),
        "error_held_out": _error(average, images[held_out]),
    }


def write_half(folder: Path, network: Network, model: nn.Module) -> None:
    """Write the network into its place in `folder`, its weights in float16."""
    write_network(folder / network.folder, network, {name: value.half() for name, value in model.state_dict().items()})


@torch.no_grad()
def encode(model: Any, images: Tensor) -> Tensor:
    """The latents (B, C, 8, 8) that are diffused, before scaling: before quantization, or the mean of the distribution."""
    codes = [model.encode(batch) for batch in torch.split(images, 256)]
    return torch.cat([code.latents if hasattr(code, "latents") else code.latent_dist.mode() for code in codes])


def _loss(model: Any, images: Tensor, generator: torch.Generator) -> Tensor:
    code = model.encode(images)
    if hasattr(code, "latents"):
        decoded = model.decode(code.latents)
        beside: Tensor = decoded.commit_loss.mean()
    else:
        decoded = model.decode(code.latent_dist.sample(generator))
        beside = _PULL * code.latent_dist.kl().mean() / code.latent_dist.mean[0].numel()
    return nn.functional.mse_loss(decoded.sample, images) + beside


@torch.no_grad()
def _error(model: Any, images: Tensor) -> float:
    errors = [model.decode(encode(model, batch)).sample - batch for batch in torch.split(images, 256)]
    return float(torch.cat(errors).square().mean())
