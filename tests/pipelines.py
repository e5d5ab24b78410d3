"""Random pipeline folders of every kind of model, of images 16x16, small enough for the whole chain in seconds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from dmq_cli.models.conditions import ClassEmbedding
from dmq_cli.obtain import WEIGHTS
from dmq_cli.store import write_json
from dmq_cli.store.tensors import save_tensors

CLASSES, SIZE = 10, 16
SCHEDULE: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "num_train_timesteps": 1000,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.0015,
    "beta_end": 0.0195,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8,),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
_LATENT = _UNET | {
    "down_block_types": ("AttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "attention_head_dim": 8,
}
_COND = _UNET | {
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
    "cross_attention_dim": 64,
    "attention_head_dim": 2,
}
_DIT = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "patch_size": 2,
    "num_layers": 2,
    "num_attention_heads": 2,
    "attention_head_dim": 8,
    "num_embeds_ada_norm": CLASSES,
}
_AUTOENCODER: dict[str, Any] = {
    "in_channels": 1,
    "out_channels": 1,
    "latent_channels": 2,
    "block_out_channels": (8, 8),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "sample_size": SIZE,
    "scaling_factor": 0.5,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def latent(path: Path) -> Path:
    """An LDMPipeline: unconditional UNet, VQ first stage."""
    _save("UNet2DModel", _LATENT, path / "unet")
    _save("VQModel", _AUTOENCODER | {"num_vq_embeddings": 32, "vq_embed_dim": 2}, path / "vqvae")
    return _finished(path, "LDMPipeline", unet="UNet2DModel", vqvae="VQModel")


def tokens(path: Path) -> Path:
    """As `dmq import` leaves cin256: cross-attention on the token of a class, the last of which is none."""
    _save("UNet2DConditionModel", _COND, path / "unet")
    _save("VQModel", _AUTOENCODER | {"num_vq_embeddings": 32, "vq_embed_dim": 2}, path / "vqvae")
    embedding = {"num_embeddings": CLASSES + 1, "embedding_dim": 64}
    write_json(_made(path / "class_embedding") / "config.json", {"_class_name": "ClassEmbedding", **embedding})
    save_tensors(path / "class_embedding" / WEIGHTS, _seeded(lambda: ClassEmbedding(**embedding)).state_dict())
    return _finished(path)


def prompts(path: Path) -> Path:
    """A StableDiffusionPipeline, and prompts.txt with ten prompts."""
    from dmq_cli.zoo.text import text_encoder, write_prompts, write_tokenizer

    _save("UNet2DConditionModel", _COND, path / "unet")
    _save("AutoencoderKL", _AUTOENCODER, path / "vae")
    write_tokenizer(path / "tokenizer")
    _seeded(lambda: text_encoder(path / "tokenizer")).save_pretrained(path / "text_encoder")
    write_prompts(path / "prompts.txt")
    return _finished(path)


def transformer(path: Path, classes: int = CLASSES) -> Path:
    """A DiTPipeline."""
    _save("DiTTransformer2DModel", _DIT | {"num_embeds_ada_norm": classes}, path / "transformer")
    _save("AutoencoderKL", _AUTOENCODER, path / "vae")
    return _finished(path)


FOLDERS: dict[str, Callable[[Path], Path]] = {
    "latent": latent,
    "tokens": tokens,
    "prompts": prompts,
    "transformer": transformer,
}


def settings(kind: str, path: Path) -> list[str]:
    """Overrides that a command needs for a folder of this kind: guidance, prompts, a protocol without a digit reader's size."""
    overrides = [f"model={path}", "model.sampling.set_alpha_to_one=false"]
    if kind != "latent":
        overrides += [
            "cond.guidance=2.0",
            f"model.sampling.correct_target={'uncond' if kind == 'prompts' else 'guided'}",
        ]
    return overrides + ([f"cond.prompts={path / 'prompts.txt'}"] if kind == "prompts" else [])


def _save(name: str, config: dict[str, Any], folder: Path) -> None:
    _seeded(lambda: getattr(diffusers, name)(**config)).save_pretrained(folder)


def _seeded(make: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = make()
        for parameter in module.parameters():  # DiT starts from zeros, which quantize to nothing
            if not parameter.any():
                nn.init.normal_(parameter, std=0.05)
    return module


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _finished(path: Path, pipeline: str | None = None, **parts: str) -> Path:
    write_json(_made(path / "scheduler") / "scheduler_config.json", SCHEDULE)
    if pipeline:
        named = {name: ["diffusers", kind] for name, kind in {**parts, "scheduler": "DDIMScheduler"}.items()}
        write_json(path / "model_index.json", {"_class_name": pipeline, "_diffusers_version": "0.40.0", **named})
    return path
