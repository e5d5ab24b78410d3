"""The roles and parts of layers by their module paths alone, for every family. Imports no diffusers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

Patterns = Sequence[tuple[str, str]]
"""(pattern of a module path, role) in order; the first that fits the whole path counts."""

# Resamplers are residual blocks in some latent UNets, single convolutions in the others.
_RESNET = r".*\.(?:resnets|downsamplers|upsamplers)\.\d+\."
_ATTENTION = r".*\.(?:attentions\.\d+|attn[12])\."
_TRANSFORMER = r".*\.transformer_blocks\.\d+\."
UNET = (
    (r"conv_in", "edge.in"),
    (r"conv_out", "edge.out"),
    (r"time_embedding\.linear_([12])", r"time.embed_\1"),
    (rf"{_RESNET}(conv1|conv2)", r"resnet.\1"),
    (rf"{_RESNET}time_emb_proj", "resnet.time_proj"),
    (rf"{_RESNET}conv_shortcut", "resnet.shortcut"),
    (rf"{_ATTENTION}(to_q|to_k|to_v)", r"attn.\1"),
    (rf"{_ATTENTION}to_out\.0", "attn.to_out"),
    (rf"{_TRANSFORMER}ff\.net\.0\.proj", "ff.in"),
    (rf"{_TRANSFORMER}ff\.net\.2", "ff.out"),
    (r".*\.attentions\.\d+\.(proj_in|proj_out)", r"transformer.\1"),
    (r".*\.downsamplers\.\d+\.conv", "down.conv"),
    (r".*\.upsamplers\.\d+\.conv", "up.conv"),
)

_BLOCK = r"transformer_blocks\.\d+\."
DIT = (
    (r"pos_embed\.proj", "edge.in"),
    (r"proj_out_2", "edge.out"),
    (rf"proj_out_1|{_BLOCK}norm1\.linear", "time.modulation"),
    (rf"{_BLOCK}norm1\.emb\.timestep_embedder\.linear_([12])", r"time.embed_\1"),
    (rf"{_BLOCK}attn1\.(to_q|to_k|to_v)", r"attn.\1"),
    (rf"{_BLOCK}attn1\.to_out\.0", "attn.to_out"),
    (rf"{_BLOCK}ff\.net\.0\.proj", "ff.in"),
    (rf"{_BLOCK}ff\.net\.2", "ff.out"),
)

PARTS: Mapping[str, str] = {
    "down_blocks": "down",
    "mid_block": "mid",
    "up_blocks": "up",
    "time_embedding": "time",
    "transformer_blocks": "block",
}
"""The part (see roles.py) that lies under each of a network's own modules; all else is edge."""

REGISTERED: dict[str, tuple[Patterns, Mapping[str, str]]] = {}
"""Patterns and parts of the families registered by plugins, by their names; see families.py."""


def role_of(name: str, patterns: Patterns) -> str | None:
    """The role of a layer by its module path; None where no pattern fits."""
    return next((re.sub(pattern, role, name) for pattern, role in patterns if re.fullmatch(pattern, name)), None)


def part_of(name: str, parts: Mapping[str, str]) -> str:
    """The part of the network (see roles.py) that a module path lies in."""
    return parts.get(name.split(".")[0], "edge")
