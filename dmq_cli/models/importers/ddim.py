"""Names of the pixel UNet of Ho et al. (DDPM, 2020), ported to PyTorch by pesser and used by ermongroup/ddim.

`down.LEVEL` and `up.LEVEL` are numbered by resolution, the highest first, so `up` runs from its last entry to its first.
The encoders and decoders of CompVis' first stages are made of the same parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.models.importers.keymap import Modules, Source, renamed

_RESNET = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time_emb_proj": "temb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "conv_shortcut": "nin_shortcut",
}
_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def ddim_unet(config: Mapping[str, Any]) -> Modules:
    """Map the modules of a UNet2DModel with this diffusers configuration to the original layout."""
    levels, layers = len(config["block_out_channels"]), int(config["layers_per_block"])
    time = {"time_embedding.linear_1": Source("temb.dense.0"), "time_embedding.linear_2": Source("temb.dense.1")}
    return time | edges("") | down_path("", levels, layers) | middle("") | up_path("", levels, layers + 1)


def edges(prefix: str) -> Modules:
    """First convolution, last normalisation and last convolution; prefix: "" or ends with a dot, in both layouts."""
    names = {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}
    return {prefix + name: Source(prefix + original) for name, original in names.items()}


def down_path(prefix: str, levels: int, layers: int) -> Modules:
    """Blocks, attentions and strided convolutions of every level."""
    modules: Modules = {}
    for level in range(levels):
        target, source = f"{prefix}down_blocks.{level}", f"{prefix}down.{level}"
        modules |= _level(target, source, layers)
        modules |= renamed(target, source, {"downsamplers.0.conv": "downsample.conv"})
    return modules


def up_path(prefix: str, levels: int, layers: int) -> Modules:
    """Blocks, attentions and upsampling convolutions of every level; layers: blocks of a level, one more than in the down path."""
    modules: Modules = {}
    for level in range(levels):
        target, source = f"{prefix}up_blocks.{levels - 1 - level}", f"{prefix}up.{level}"
        modules |= _level(target, source, layers)
        modules |= renamed(target, source, {"upsamplers.0.conv": "upsample.conv"})
    return modules


def middle(prefix: str) -> Modules:
    """Block, attention and block at the lowest resolution."""
    target, source = f"{prefix}mid_block", f"{prefix}mid"
    blocks = renamed(f"{target}.resnets.0", f"{source}.block_1", _RESNET)
    blocks |= renamed(f"{target}.resnets.1", f"{source}.block_2", _RESNET)
    return blocks | renamed(f"{target}.attentions.0", f"{source}.attn_1", _ATTENTION)


def _level(target: str, source: str, layers: int) -> Modules:
    modules: Modules = {}
    for layer in range(layers):
        modules |= renamed(f"{target}.resnets.{layer}", f"{source}.block.{layer}", _RESNET)
        modules |= renamed(f"{target}.attentions.{layer}", f"{source}.attn.{layer}", _ATTENTION)
    return modules
