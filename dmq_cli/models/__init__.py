"""Networks of diffusion models and the words in which the rest of dmq speaks of them. Knows nothing of quantization."""

from dmq_cli.models.adapter import Adapter, Layer, Site, sites
from dmq_cli.models.attention_calls import check_attentions
from dmq_cli.models.cond_unet import CondUNetAdapter
from dmq_cli.models.conditions import Cond, Conditions, cond_rows
from dmq_cli.models.denoiser import Call, Denoiser, InBatches, ModelDenoiser, device_of, predict
from dmq_cli.models.digits_cnn import DigitsCNN
from dmq_cli.models.dit import DiTAdapter
from dmq_cli.models.expected import check_expected
from dmq_cli.models.families import Family, Told, families, register
from dmq_cli.models.first_stage import Decoder
from dmq_cli.models.folder import folder_sha256, load_adapter, load_schedule
from dmq_cli.models.image_shape import image_shape, sample_bytes
from dmq_cli.models.module_calls import is_by_sample, named_arguments, nested, packed
from dmq_cli.models.numerics import Numerics
from dmq_cli.models.origin import (
    countable,
    has_mid_attention,
    identified,
    is_random,
    model_adapter,
    model_conditions,
    model_decoder,
    model_encoder_sha256,
    model_schedule,
    model_shapes,
)
from dmq_cli.models.prediction import NOISE, Prediction, levels, prediction_of
from dmq_cli.models.roles import ATTENTION_SLOTS, LAYER_SLOTS, PARTS, PRODUCTS, ROLES, fits
from dmq_cli.models.schedule import PREDICTIONS, noise_schedule
from dmq_cli.models.schedule import defaults as scheduler_defaults
from dmq_cli.models.structure import executed, run_once
from dmq_cli.models.unet import UNetAdapter

__all__ = [
    "ATTENTION_SLOTS",
    "LAYER_SLOTS",
    "NOISE",
    "PARTS",
    "PREDICTIONS",
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
    "Family",
    "InBatches",
    "Layer",
    "ModelDenoiser",
    "Numerics",
    "Prediction",
    "Site",
    "Told",
    "UNetAdapter",
    "check_attentions",
    "check_expected",
    "cond_rows",
    "countable",
    "device_of",
    "executed",
    "families",
    "fits",
    "folder_sha256",
    "has_mid_attention",
    "identified",
    "image_shape",
    "is_by_sample",
    "is_random",
    "levels",
    "load_adapter",
    "load_schedule",
    "model_adapter",
    "model_conditions",
    "model_decoder",
    "model_encoder_sha256",
    "model_schedule",
    "model_shapes",
    "named_arguments",
    "nested",
    "noise_schedule",
    "packed",
    "predict",
    "prediction_of",
    "register",
    "run_once",
    "sample_bytes",
    "scheduler_defaults",
    "sites",
]
