"""Networks of diffusion models and the words in which the rest of dmq speaks of them. Knows nothing of quantization."""

import dmq_cli.compat  # noqa: F401
from dmq_cli.models.adapter import Adapter, Layer, Site, sites
from dmq_cli.models.cond_unet import CondUNetAdapter
from dmq_cli.models.conditions import Cond, Conditions, conditions_sha256, kind_of, load_conditions
from dmq_cli.models.denoiser import Call, Denoiser, ModelDenoiser, device_of
from dmq_cli.models.digits_cnn import DigitsCNN
from dmq_cli.models.dit import DiTAdapter
from dmq_cli.models.first_stage import Decoder, first_stage_sha256, load_decoder
from dmq_cli.models.folder import folder_sha256, load_adapter, load_schedule
from dmq_cli.models.roles import PARTS, PRODUCTS, ROLES, fits
from dmq_cli.models.structure import executed
from dmq_cli.models.unet import UNetAdapter

__all__ = [
    "PARTS",
    "PRODUCTS",
    "ROLES",
    "Adapter",
    "Call",
    "Cond",
    "CondUNetAdapter",
    "Conditions",
    "Decoder",
    "Denoiser",
    "DiTAdapter",
    "DigitsCNN",
    "Layer",
    "ModelDenoiser",
    "Site",
    "UNetAdapter",
    "conditions_sha256",
    "device_of",
    "executed",
    "first_stage_sha256",
    "fits",
    "folder_sha256",
    "kind_of",
    "load_adapter",
    "load_conditions",
    "load_decoder",
    "load_schedule",
    "sites",
]
