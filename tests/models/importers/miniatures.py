"""The published checkpoints with few channels, laid out as they were trained: recipes and state dicts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.models.importers import RECIPES
from dmq_cli.models.importers.recipes import Recipe
from dmq_cli.models.importers.shares import betas
from dmq_cli.store import write_json
from tests.models.importers.original_clip import TextModel
from tests.models.importers.original_ddim import Model
from tests.models.importers.original_first_stage import FirstStage
from tests.models.importers.original_ldm import Shape, UNetModel

STAGE = {
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}
SMALL = {"block_out_channels": (8, 16), "norm_num_groups": 4, "sample_size": 8}
PAIR = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
CHANGES: dict[str, list[dict[str, Any]]] = {
    "ddim_cifar10": [{**SMALL, **PAIR}],
    "ldm4_bedroom": [{**SMALL, **PAIR, "attention_head_dim": 4}, {**STAGE, "num_vq_embeddings": 20}],
    "ldm8_church": [
        {
            **SMALL,
            "num_attention_heads": 4,
            "attn_norm_num_groups": 4,
            "down_block_types": ("AttnDownBlock2D", "ResnetDownsampleBlock2D"),
            "up_block_types": ("ResnetUpsampleBlock2D", "AttnUpBlock2D"),
        },
        STAGE,
    ],
    "ldm4_imagenet": [
        {
            **SMALL,
            "cross_attention_dim": 6,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        },
        {**STAGE, "num_vq_embeddings": 20},
        {"num_embeddings": 11, "embedding_dim": 6},
    ],
    "sd14": [
        {
            **SMALL,
            "cross_attention_dim": 8,
            "attention_head_dim": 2,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        },
        STAGE,
        {
            "vocab_size": 10,
            "max_position_embeddings": 8,
            "hidden_size": 8,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "bos_token_id": 8,
            "eos_token_id": 9,
        },
    ],
}
WORDS = ["a", "b", "c", "a</w>", "b</w>", "c</w>", "ab</w>", "ca", "<|startoftext|>", "<|endoftext|>"]
MERGES = "#version: 0.2\na b</w>\nc a\n"
SHAPES = {
    "ldm4_bedroom": Shape(8, (1, 2), frozenset({1}), size=4, groups=4),
    "ldm8_church": Shape(8, (1, 2), frozenset({0}), latent=4, heads=4, scale_shift=True, updown=True, groups=4),
    "ldm4_imagenet": Shape(8, (1, 2), frozenset({1}), heads=1, context=6, groups=4),
    "sd14": Shape(8, (1, 2), frozenset({0}), latent=4, heads=2, context=8, groups=4),
}
TABLES = ["alphas_cumprod", "posterior_mean_coef1", "sqrt_recipm1_alphas_cumprod"]


def small(name: str) -> Recipe:
    """The recipe with few channels."""
    recipe = RECIPES[name]
    pairs = zip(recipe.networks, CHANGES[name], strict=True)
    return replace(recipe, networks=tuple(replace(n, config={**n.config, **c}) for n, c in pairs))


def state(name: str) -> dict[str, Tensor]:
    """A checkpoint's state dict as it was trained: latent ones whole, with averages and tables."""
    torch.manual_seed(0)
    if name == "ddim_cifar10":
        return dict(Model(8, (1, 2), {1}, groups=4).state_dict())
    unet = UNetModel(SHAPES[name])
    kl = name == "ldm8_church"
    stage = FirstStage(8, (1, 2), 4 if kl else 3, None if kl else 20, groups=4)
    tensors = {f"model.diffusion_model.{key}": value for key, value in unet.state_dict().items()}
    flat = {f"diffusion_model.{key}".replace(".", ""): value for key, value in unet.state_dict().items()}
    tensors |= {f"model_ema.{key}": value + 1 for key, value in flat.items()}
    tensors |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    tensors |= {f"first_stage_model.{key}": value for key, value in stage.state_dict().items()}
    tensors |= {"betas": betas(RECIPES[name].schedule).float()} | {key: torch.ones(1000) for key in TABLES}
    tensors |= {"scale_factor": torch.tensor(0.25)} if kl else {}
    return tensors | ({"cond_stage_model.embedding.weight": torch.randn(11, 6)} if name == "ldm4_imagenet" else {})


def randomized(original: Any) -> Any:
    """The same network with random weights, those of norms too."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in original.named_parameters():
        spread = 0.4 if parameter.dim() == 1 else parameter[0].numel() ** -0.5
        shift = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        parameter.data = torch.randn(parameter.shape, generator=generator) * spread + shift
    return original.eval().requires_grad_(False)


def stable_diffusion() -> dict[str, Any]:
    """The three networks of Stable Diffusion with few channels, by their prefix in the single file."""
    return {
        "model.diffusion_model.": randomized(UNetModel(SHAPES["sd14"])),
        "first_stage_model.": randomized(FirstStage(8, (1, 2), 4, None, groups=4)),
        "cond_stage_model.transformer.": randomized(TextModel(10, 8, 2, 2, 8)),
    }


def single_file(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    """A state dict as sd-v1-4.ckpt has it: tables, counters of averages that were taken out, and the networks."""
    tensors = {"betas": betas(RECIPES["sd14"].schedule).float()} | {key: torch.ones(1000) for key in TABLES}
    tensors |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    return tensors | {
        f"{start}{key}": value for start, network in networks.items() for key, value in network.state_dict().items()
    }


def vocabulary(folder: Path, words: list[str] = WORDS) -> Path:
    """The two files of a tokenizer, in a new folder."""
    folder.mkdir()
    write_json(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "merges.txt").write_text(MERGES, encoding="utf-8")
    return folder
