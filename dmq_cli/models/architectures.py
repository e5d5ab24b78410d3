"""The architectures that dmq knows without any file: those it can import, and two that diffusers reads by itself.

Stable Diffusion v1.4: CompVis/stable-diffusion, configs/stable-diffusion/v1-inference.yaml. DiT-XL/2: facebookresearch/DiT, models.py.
"""

from __future__ import annotations

from typing import Any

from dmq_cli.models.importers.recipes import RECIPES, Network, Recipe

_SD14 = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}  # the last: the number of heads
_DIT_XL_2 = {
    "sample_size": 32,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "num_layers": 28,
    "num_attention_heads": 16,
    "attention_head_dim": 72,
    "num_embeds_ada_norm": 1000,
}


def _kl_f8(size: int) -> Network:
    config: dict[str, Any] = {
        "sample_size": size,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "block_out_channels": (128, 256, 512, 512),
        "layers_per_block": 2,
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
    }
    return Network("vae", "AutoencoderKL", "", config)


def _betas(kind: str, first: float, last: float, latent: bool) -> dict[str, Any]:
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": 1000,
        "beta_schedule": kind,
        "beta_start": first,
        "beta_end": last,
        "prediction_type": "epsilon",
        "clip_sample": False,
        "set_alpha_to_one": not latent,
        "steps_offset": int(latent),
        "trained_betas": None,
    }


ARCHITECTURES: dict[str, Recipe] = {
    **RECIPES,
    "sd14": Recipe(
        (
            Network("unet", "UNet2DConditionModel", "", _SD14),
            _kl_f8(512),
        ),
        _betas("scaled_linear", 0.00085, 0.012, latent=True),
        "StableDiffusionPipeline",
    ),
    "dit_xl2_256": Recipe(
        (Network("transformer", "DiTTransformer2DModel", "", _DIT_XL_2), _kl_f8(256)),
        _betas("linear", 1e-4, 0.02, latent=False),
        "DiTPipeline",
    ),
}
