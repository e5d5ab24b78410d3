"""The published checkpoints that can be imported: their networks as diffusers configurations, and their noise schedules.

Architectures: the configs of ermongroup/ddim (cifar10.yml, church.yml, bedroom.yml), CompVis/latent-diffusion
(models/ldm/*/config.yaml), CompVis/stable-diffusion (v1-inference.yaml) and openai/clip-vit-large-patch14. Three numbers
easily go wrong: the GroupNorm epsilon (1e-6 in DDIM and the first stages, 1e-5 in LDM's UNet), the padding of strided
convolutions (0 before, 1 after in DDIM; 1 around in LDM) and the order of the time embedding (sine first over 1/(n-1) in
DDIM; cosine first over 1/n in LDM).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]


@dataclass(frozen=True)
class Network:
    """One network of a checkpoint. folder: its name in the result; kind: class; prefix: of its names in the checkpoint.

    config: of the diffusers class. A scaling_factor of None is read from the checkpoint.
    """

    folder: str
    kind: str
    prefix: str
    config: Mapping[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A published checkpoint. schedule: a diffusers scheduler configuration; pipeline: diffusers' class for all of it.

    pipeline is None where diffusers has none that would compute the right numbers; others: what model_index.json says of
    its parts that are not networks. The first network is the denoiser.
    """

    networks: tuple[Network, ...]
    schedule: Mapping[str, Any]
    pipeline: str | None
    others: Mapping[str, Any] = field(default_factory=dict)


def _types(kind: str, levels: int, attended: set[int], down: str, up: str) -> Config:
    """Block types of both paths; kind: "Attn" or "CrossAttn"; down, up: the types of levels without attention."""
    downs = [f"{kind}DownBlock2D" if level in attended else down for level in range(levels)]
    ups = [f"{kind}UpBlock2D" if level in attended else up for level in reversed(range(levels))]
    return {"down_block_types": tuple(downs), "up_block_types": tuple(ups)}


def _widths(channels: int, factors: tuple[int, ...]) -> Config:
    return {"block_out_channels": tuple(channels * factor for factor in factors), "layers_per_block": 2}


def _pixels(size: int, factors: tuple[int, ...], attended: set[int], dropout: float) -> Recipe:
    config = {
        "sample_size": size,
        "attention_head_dim": None,  # one head of all channels
        "norm_eps": 1e-6,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "dropout": dropout,
    }
    config |= _widths(128, factors) | _types("Attn", len(factors), attended, "DownBlock2D", "UpBlock2D")
    return Recipe((Network("unet", "UNet2DModel", "", config),), ddpm_schedule(), "DDIMPipeline")


def ddpm_schedule() -> Config:
    """The noise schedule of Ho et al. 2020."""
    return schedule("linear", 1e-4, 0.02) | {"set_alpha_to_one": True, "steps_offset": 0}


def schedule(kind: str, first: float, last: float) -> Config:
    """LDM's noise schedule: kind and ends of the betas, in diffusers' words."""
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": kind,
        "beta_start": first,
        "beta_end": last,
        "prediction_type": "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,  # LDM's timesteps are 1, 21, ...
        "trained_betas": None,
    }


_LATENT: Config = {"norm_eps": 1e-5, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0}
_UNET = "model.diffusion_model."
_CLASSES = Network(
    "class_embedding", "ClassEmbedding", "cond_stage_model.", {"num_embeddings": 1001, "embedding_dim": 512}
)

_CLIP = Network(
    "text_encoder",
    "CLIPTextModel",
    "cond_stage_model.transformer.",
    {
        "vocab_size": 49408,
        "max_position_embeddings": 77,
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    },
)


def _first_stage(folder: str, kind: str, factors: tuple[int, ...], **config: Any) -> Network:
    levels = len(factors)
    types = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return Network(folder, kind, "first_stage_model.", {**config, **types, **_widths(128, factors)})


def _vq_f4() -> Network:
    config = {"sample_size": 256, "latent_channels": 3, "scaling_factor": 1.0}
    return _first_stage("vqvae", "VQModel", (1, 2, 4), vq_embed_dim=3, num_vq_embeddings=8192, **config)


def kl_f8(size: int, scale: float | None) -> Network:
    """An autoencoder whose latents have 1/8 of a picture's height and width. size: of pictures, pixels; scale: of latents."""
    config = {"sample_size": size, "latent_channels": 4, "scaling_factor": scale}
    return _first_stage("vae", "AutoencoderKL", (1, 2, 4, 4), **config)


def _bedroom() -> Recipe:
    """LDM-4 without conditions: LSUN-Bedroom, CelebA-HQ and FFHQ have the same architecture."""
    config = {"sample_size": 64, "in_channels": 3, "out_channels": 3, "attention_head_dim": 32, **_LATENT}
    config |= _widths(224, (1, 2, 3, 4)) | _types("Attn", 4, {1, 2, 3}, "DownBlock2D", "UpBlock2D")
    unet = Network("unet", "UNet2DModel", _UNET, config)
    return Recipe((unet, _vq_f4()), schedule("scaled_linear", 0.0015, 0.0195), "LDMPipeline")


def _church() -> Recipe:
    config = {
        "sample_size": 32,
        "in_channels": 4,
        "out_channels": 4,
        "num_attention_heads": 8,
        "resnet_time_scale_shift": "scale_shift",
        "attn_norm_num_groups": 32,  # with scale_shift, diffusers' middle attention has no norm unless told
        "downsample_type": "resnet",
        "upsample_type": "resnet",
        **_LATENT,
    }
    config |= _widths(192, (1, 2, 2, 4, 4))
    config |= _types("Attn", 5, {0, 1, 2, 3}, "ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D")
    unet = Network("unet", "HeadsUNet2DModel", _UNET, config)
    return Recipe((unet, kl_f8(256, None)), schedule("scaled_linear", 0.0015, 0.0155), None)


def _conditioned(
    channels: int, factors: tuple[int, ...], attended: set[int], latent: int, width: int, heads: int
) -> Network:
    """A UNet of latents 64x64 that reads tokens of this width."""
    config = {
        "sample_size": 64,
        "in_channels": latent,
        "out_channels": latent,
        "cross_attention_dim": width,
        "attention_head_dim": heads,  # in this class of diffusers their number
        **_LATENT,
    }
    config |= _widths(channels, factors)
    config |= _types("CrossAttn", len(factors), attended, "DownBlock2D", "UpBlock2D")
    return Network("unet", "UNet2DConditionModel", _UNET, config)


def _imagenet() -> Recipe:
    unet = _conditioned(192, (1, 2, 3, 5), {1, 2, 3}, latent=3, width=512, heads=1)
    return Recipe((unet, _vq_f4(), _CLASSES), schedule("scaled_linear", 0.0015, 0.0195), None)


def _stable() -> Recipe:
    unet = _conditioned(320, (1, 2, 4, 4), {0, 1, 2}, latent=4, width=768, heads=8)
    betas = schedule("scaled_linear", 0.00085, 0.012) | {"_class_name": "PNDMScheduler", "skip_prk_steps": True}
    parts = {"tokenizer": ["transformers", "CLIPTokenizer"], "requires_safety_checker": False}
    parts |= {"safety_checker": [None, None], "feature_extractor": [None, None]}
    return Recipe((unet, kl_f8(512, 0.18215), _CLIP), betas, "StableDiffusionPipeline", parts)


RECIPES: dict[str, Recipe] = {
    "ddim_cifar10": _pixels(32, (1, 2, 2, 2), {1}, 0.1),
    "ddpm_church256": _pixels(256, (1, 1, 2, 2, 4, 4), {4}, 0.0),
    "ddpm_bedroom256": _pixels(256, (1, 1, 2, 2, 4, 4), {4}, 0.0),
    "ldm4_bedroom": _bedroom(),
    "ldm4_celebahq": _bedroom(),
    "ldm4_ffhq": _bedroom(),
    "ldm4_church": _bedroom(),  # published by nobody; for a checkpoint of one's own
    "ldm8_church": _church(),
    "ldm4_imagenet": _imagenet(),
    "sd14": _stable(),
}
