"""Names of the UNet of CompVis' latent diffusion (openaimodel.UNetModel, after Dhariwal and Nichol 2021).

Its blocks are numbered in the order in which they run; in block N, entry 0 is the residual block, 1 the attention where
there is one, and the last of a level changes the resolution.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.models.importers.keymap import Modules, Source, renamed

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_TRANSFORMER_BLOCK = (
    *(f"{attn}.{name}" for attn in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"),
)
_TRANSFORMER = ("norm", "proj_in", "proj_out", *(f"transformer_blocks.0.{name}" for name in _TRANSFORMER_BLOCK))
_EDGES = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def ldm_unet(config: Mapping[str, Any]) -> Modules:
    """Map the modules of a UNet with this diffusers configuration to the original layout.

    config: of a UNet2DModel, a HeadsUNet2DModel or a UNet2DConditionModel with one transformer block in each attention.
    """
    edges = {name: Source(original) for name, original in _EDGES.items()}
    return edges | _down(config) | _middle(config) | _up(config)


def _down(config: Mapping[str, Any]) -> Modules:
    modules: Modules = {}
    number = 1  # 0 is the first convolution
    for level, width in enumerate(config["block_out_channels"]):
        for layer in range(config["layers_per_block"]):
            modules |= _pair(config, f"down_blocks.{level}", layer, f"input_blocks.{number}", width)
            number += 1
        modules |= _resample(f"down_blocks.{level}.downsamplers.0", f"input_blocks.{number}.0", "op", config)
        number += 1
    return modules


def _middle(config: Mapping[str, Any]) -> Modules:
    width = config["block_out_channels"][-1]
    modules = renamed("mid_block.resnets.0", "middle_block.0", _RESNET)
    modules |= _attention("mid_block.attentions.0", "middle_block.1", width, config)
    return modules | renamed("mid_block.resnets.1", "middle_block.2", _RESNET)


def _up(config: Mapping[str, Any]) -> Modules:
    modules: Modules = {}
    number = 0
    kinds = zip(config["up_block_types"], reversed(config["block_out_channels"]), strict=True)
    for level, (kind, width) in enumerate(kinds):
        for layer in range(config["layers_per_block"] + 1):
            modules |= _pair(config, f"up_blocks.{level}", layer, f"output_blocks.{number}", width)
            number += 1
        last = f"output_blocks.{number - 1}.{2 if 'Attn' in kind else 1}"
        modules |= _resample(f"up_blocks.{level}.upsamplers.0", last, "conv", config)
    return modules


def _pair(config: Mapping[str, Any], target: str, layer: int, source: str, width: int) -> Modules:
    """A residual block and the attention that may follow it."""
    modules = renamed(f"{target}.resnets.{layer}", f"{source}.0", _RESNET)
    return modules | _attention(f"{target}.attentions.{layer}", f"{source}.1", width, config)


def _attention(target: str, source: str, width: int, config: Mapping[str, Any]) -> Modules:
    if "cross_attention_dim" in config:
        return renamed(target, source, {name: name for name in _TRANSFORMER})
    heads = config.get("num_attention_heads") or width // config["attention_head_dim"]
    joint = {f"{target}.to_{x}": Source(f"{source}.qkv", part, heads) for part, x in enumerate("qkv")}
    return joint | renamed(target, source, {"group_norm": "norm", "to_out.0": "proj_out"})


def _resample(target: str, source: str, conv: str, config: Mapping[str, Any]) -> Modules:
    """Between two levels: a residual block (resblock_updown) or a convolution."""
    if config.get("downsample_type") == "resnet":
        return renamed(target, source, _RESNET)
    return renamed(target, source, {"conv": conv})
