"""Names of CompVis' first stages: VQModel (ldm.models.autoencoder.VQModelInterface) and AutoencoderKL."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.models.importers.ddim import down_path, edges, middle, up_path
from dmq_cli.models.importers.keymap import Modules, Source


def first_stage(config: Mapping[str, Any]) -> Modules:
    """Map the modules of a VQModel or AutoencoderKL with this diffusers configuration to the original layout."""
    levels, layers = len(config["block_out_channels"]), int(config["layers_per_block"])
    same_names = ("quant_conv", "post_quant_conv", "quantize.embedding")  # the last in a VQModel only
    encoder = edges("encoder.") | down_path("encoder.", levels, layers) | middle("encoder.")
    decoder = edges("decoder.") | up_path("decoder.", levels, layers + 1) | middle("decoder.")
    return {name: Source(name) for name in same_names} | encoder | decoder
