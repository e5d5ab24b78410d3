"""The vocabulary in which quantization rules name the layers of any diffusion network.

A rule never says "the third layer": it says what a layer is for. A site is a role and a slot joined by a dot, such as
`resnet.conv1.weight`, `resnet.conv1.input` or `attn.prob`.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

ROLES: dict[str, str] = {
    "edge.in": "the first convolution, from the image or latent",
    "edge.out": "the last layer, to the noise estimate",
    "time.embed_1": "first of the two layers that embed the timestep, shared by all blocks (a DiT has two in each block)",
    "time.embed_2": "second of them",
    "time.modulation": "projection of timestep and class to the scales, shifts and gates of a transformer's norms",
    "resnet.conv1": "first convolution of a residual block",
    "resnet.conv2": "second convolution of a residual block",
    "resnet.time_proj": "projection of the time embedding into a residual block",
    "resnet.shortcut": "1x1 convolution around a residual block",
    "attn.to_q": "query projection",
    "attn.to_k": "key projection",
    "attn.to_v": "value projection",
    "attn.to_out": "output projection of an attention",
    "attn.cross.to_q": "query projection of a cross-attention",
    "attn.cross.to_k": "key projection of a cross-attention, from the condition",
    "attn.cross.to_v": "value projection of a cross-attention, from the condition",
    "attn.cross.to_out": "output projection of a cross-attention",
    "ff.in": "first layer of the feed-forward part of a transformer block (with a GEGLU: values and gates)",
    "ff.out": "second layer of it",
    "transformer.proj_in": "projection of a UNet's feature map to the tokens of transformer blocks",
    "transformer.proj_out": "projection of the tokens back to the feature map",
    "down.conv": "strided convolution between two levels",
    "up.conv": "convolution after upsampling between two levels",
    "attn": "the attention product itself, with slots q, k, v and prob",
    "attn.cross": "the product of a cross-attention, with the same slots",
}

PRODUCTS = ("attn", "attn.cross")  # the roles that are no layers
LAYER_SLOTS = ("input", "weight")
ATTENTION_SLOTS = ("q", "k", "v", "prob")

PARTS: dict[str, str] = {
    "edge": "what is outside of all blocks",
    "time": "the time embedding",
    "down": "the down path of a UNet",
    "mid": "its middle block",
    "up": "its up path",
    "block": "the blocks of a transformer, which has no levels",
}


def fits(name: str, patterns: str) -> bool:
    """Whether a role or label fits one of the patterns, which are separated by "|".

    A cross-attention is an attention: `attn.cross.prob` fits whatever `attn.prob` fits, and `attn.cross.*` names it alone.
    """
    names = {name, name.replace("attn.cross", "attn", 1)}
    return any(fnmatchcase(candidate, pattern) for candidate in names for pattern in patterns.split("|"))
