"""Trains the embedded latent diffusion models, each on the latents of an autoencoder.

ldm_digits: LDM-4 for LSUN; ldm_digits_class: LDM-4 for ImageNet, the class a token of cross-attention; sd_digits: Stable
Diffusion, its text encoder trained along; dit_digits: DiT. All are scaled down, to latents of 8x8. For classifier-free
guidance (Ho and Salimans, arXiv 2207.12598) a condition is left out now and then: the class after the last one, or no text.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL, VQModel
from torch import Tensor, nn

from dmq_cli.models.importers.convert import write_rest
from dmq_cli.models.importers.networks import create
from dmq_cli.models.importers.recipes import Network, Recipe, schedule
from dmq_cli.zoo import text
from dmq_cli.zoo.autoencoder import KL, SIZE, VQ, encode, write_half
from dmq_cli.zoo.digits import digit_images, split, to_float
from dmq_cli.zoo.training import (
    StepReport,
    Training,
    TrainingRun,
    alphas_cumprod,
    diffusion_loss,
    evaluate_loss,
    stratified,
)

_CLASSES, _WIDTH = 10, 64  # class 10 means "no class"; _WIDTH: of a condition's token
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": (32, 64),
    "layers_per_block": 1,
    "norm_num_groups": 16,
    "norm_eps": 1e-5,
    "downsample_padding": 1,
    "flip_sin_to_cos": True,
    "freq_shift": 0,
}
_CROSS = {
    "cross_attention_dim": _WIDTH,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}
_PLAIN_UNET = {
    **_UNET,
    "in_channels": 3,
    "out_channels": 3,
    "attention_head_dim": 32,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
}
# In this class of diffusers attention_head_dim is the number of heads.
_CLASS_UNET = {**_UNET, **_CROSS, "in_channels": 3, "out_channels": 3, "attention_head_dim": 1}
_TEXT_UNET = {**_UNET, **_CROSS, "in_channels": 4, "out_channels": 4, "attention_head_dim": 4}
_DIT = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 4,
    "num_attention_heads": 4,
    "attention_head_dim": 32,
    "num_embeds_ada_norm": _CLASSES,
    "norm_elementwise_affine": False,
}
_EMBEDDING = {"num_embeddings": _CLASSES + 1, "embedding_dim": _WIDTH}
_LDM = schedule("scaled_linear", 0.0015, 0.0195)
_SD = schedule("scaled_linear", 0.00085, 0.012) | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
_LINEAR = schedule("linear", 1e-4, 0.02) | {"set_alpha_to_one": True, "steps_offset": 0}
_TEXT_PARTS = {
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
    "requires_safety_checker": False,
}
RECIPES: dict[str, Recipe] = {
    "ldm_digits": Recipe((Network("unet", "UNet2DModel", "", _PLAIN_UNET), VQ), _LDM, "LDMPipeline"),
    "ldm_digits_class": Recipe(
        (
            Network("unet", "UNet2DConditionModel", "", _CLASS_UNET),
            VQ,
            Network("class_embedding", "ClassEmbedding", "", _EMBEDDING),
        ),
        _LDM,
        None,
    ),
    "sd_digits": Recipe(
        (Network("unet", "UNet2DConditionModel", "", _TEXT_UNET), KL), _SD, "StableDiffusionPipeline", _TEXT_PARTS
    ),
    "dit_digits": Recipe((Network("transformer", "DiTTransformer2DModel", "", _DIT), KL), _LINEAR, "DiTPipeline"),
}


@dataclass(frozen=True)
class LatentTraining(Training):
    """Training of a latent model. kind: which one; dropped: the fraction of conditions that are left out."""

    kind: Literal["ldm_digits", "ldm_digits_class", "sd_digits", "dit_digits"] = "ldm_digits"
    dropped: float = 0.1


def train_latent(config: LatentTraining, work: Path, report: StepReport, first_stage: Path) -> dict[str, Any]:
    """Train, going on from the checkpoint in `work` if there is one; write the pipeline's folder to `work`/model.

    first_stage: a folder with the vqvae or the vae that the model's kind needs. Returns the losses of the averaged weights
    on both parts of the data.
    """
    shutil.rmtree(work / "model", ignore_errors=True)
    shutil.copytree(first_stage, work / "model")
    torch.manual_seed(config.seed)
    recipe, data = RECIPES[config.kind], _Data(config, work / "model")
    model, alphas = nn.ModuleDict(_networks(recipe, work / "model")), alphas_cumprod(recipe.schedule)
    train, held_out = split(len(data.labels), config.held_out, config.seed)

    def loss(networks: nn.ModuleDict, rows: Tensor, generator: torch.Generator) -> Tensor:
        latents, condition = data.latents[train[rows]], data.conditions(train[rows], generator)
        timesteps, noise = stratified(len(rows), generator), torch.randn(latents.shape, generator=generator)
        return diffusion_loss(lambda x, t: predict(networks, x, t, condition), alphas, latents, timesteps, noise)

    def evaluate(rows: Tensor) -> float:
        condition = data.conditions(rows, torch.Generator().manual_seed(0))
        return evaluate_loss(lambda x, t: predict(average, x, t, condition), alphas, data.latents[rows])

    average = TrainingRun(config, model, work, len(train), loss).finish(report)
    _write(work / "model", recipe, average)
    return {
        "training": asdict(config),
        "parameters": {name: sum(p.numel() for p in network.parameters()) for name, network in model.items()},
        "loss_train": evaluate(train[: len(held_out)]),
        "loss_held_out": evaluate(held_out),
    }


def predict(networks: nn.ModuleDict, sample: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
    """The noise in latents (B, C, 8, 8). condition: classes (B,), or for a text encoder tokens (B, 16)."""
    if "transformer" in networks:
        estimate: Tensor = networks["transformer"](sample, timesteps, condition).sample
        return estimate
    context: list[Tensor] = []
    if "class_embedding" in networks:
        context = [networks["class_embedding"](condition)]
    if "text_encoder" in networks:
        context = [networks["text_encoder"](condition)[0]]
    estimate = networks["unet"](sample, timesteps, *context).sample
    return estimate


class _Data:
    """The scaled latents of all digits (N, C, 8, 8), their labels (N,) and their conditions."""

    def __init__(self, config: LatentTraining, folder: Path) -> None:
        kind = VQModel if (folder / VQ.folder).is_dir() else AutoencoderKL
        place = folder / (VQ if kind is VQModel else KL).folder
        autoencoder = kind.from_pretrained(place, local_files_only=True, low_cpu_mem_usage=False)
        pixels, self.labels = digit_images(SIZE)
        self.latents = encode(autoencoder, to_float(pixels)) * autoencoder.config.scaling_factor
        self.dropped, self.tokens = config.dropped, None
        if config.kind == "sd_digits":
            text.write_tokenizer(folder / "tokenizer")
            text.write_prompts(folder / "prompts.txt")
            self.tokens = text.token_table(folder / "tokenizer")

    def conditions(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Draw conditions: classes (B,), or tokens (B, 16) of random prompts for them, a fraction of them left out."""
        left_out = torch.rand(len(rows), generator=generator) < self.dropped
        classes = self.labels[rows].masked_fill(left_out, _CLASSES)
        if self.tokens is None:
            return classes
        return self.tokens[classes, torch.randint(self.tokens.shape[1], classes.shape, generator=generator)]


def _networks(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Create the networks to train, randomly initialised, in evaluation mode: in training mode each DiT block drops classes."""
    networks = {network.folder: create(network) for network in recipe.networks if network not in (VQ, KL)}
    if (folder / "tokenizer").is_dir():
        networks["text_encoder"] = text.text_encoder(folder / "tokenizer")
    return {name: network.eval() for name, network in networks.items()}


def _write(folder: Path, recipe: Recipe, networks: nn.ModuleDict) -> None:
    for network in recipe.networks:
        if network.folder in networks:
            write_half(folder, network, networks[network.folder])
    if "text_encoder" in networks:
        text.write_encoder(folder / "text_encoder", networks["text_encoder"])
    write_rest(folder, recipe)
