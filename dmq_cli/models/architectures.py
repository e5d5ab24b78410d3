"""The architectures that dmq knows without any file: those it can import, and one that diffusers reads by itself.

DiT-XL/2: facebookresearch/DiT, models.py.
"""

from __future__ import annotations

from dmq_cli.models.importers.recipes import RECIPES, Network, Recipe, ddpm_schedule, kl_f8

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
ARCHITECTURES: dict[str, Recipe] = {
    **RECIPES,
    "dit_xl2_256": Recipe(
        (Network("transformer", "DiTTransformer2DModel", "", _DIT_XL_2), kl_f8(256, 0.18215)),
        ddpm_schedule(),
        "DiTPipeline",
    ),
}
