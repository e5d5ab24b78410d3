"""Networks of diffusion models and the words in which the rest of dmq speaks of them. Knows nothing of quantization.

The names of this package are imported when they are first used, see late.py: importing diffusers takes seconds.
"""

from typing import TYPE_CHECKING

from dmq_cli.late import late

if TYPE_CHECKING:
    from dmq_cli.models.adapter import Adapter as Adapter
    from dmq_cli.models.adapter import Layer as Layer
    from dmq_cli.models.adapter import Site as Site
    from dmq_cli.models.adapter import sites as sites
    from dmq_cli.models.attention_calls import check_attentions as check_attentions
    from dmq_cli.models.cond_unet import CondUNetAdapter as CondUNetAdapter
    from dmq_cli.models.conditions import Classes as Classes
    from dmq_cli.models.conditions import Conditions as Conditions
    from dmq_cli.models.denoiser import Call as Call
    from dmq_cli.models.denoiser import Cond as Cond
    from dmq_cli.models.denoiser import Denoiser as Denoiser
    from dmq_cli.models.denoiser import InBatches as InBatches
    from dmq_cli.models.denoiser import ModelDenoiser as ModelDenoiser
    from dmq_cli.models.denoiser import cond_rows as cond_rows
    from dmq_cli.models.denoiser import device_of as device_of
    from dmq_cli.models.denoiser import home as home
    from dmq_cli.models.denoiser import predict as predict
    from dmq_cli.models.digits_cnn import DigitsCNN as DigitsCNN
    from dmq_cli.models.dit import DiTAdapter as DiTAdapter
    from dmq_cli.models.expected import check_expected as check_expected
    from dmq_cli.models.families import Family as Family
    from dmq_cli.models.families import Told as Told
    from dmq_cli.models.families import register as register
    from dmq_cli.models.fashion_cnn import FashionCNN as FashionCNN
    from dmq_cli.models.first_stage import Decoder as Decoder
    from dmq_cli.models.first_stage import Encoder as Encoder
    from dmq_cli.models.folder import load_adapter as load_adapter
    from dmq_cli.models.folder import load_schedule as load_schedule
    from dmq_cli.models.image_sizes import image_shape as image_shape
    from dmq_cli.models.image_sizes import sample_bytes as sample_bytes
    from dmq_cli.models.module_calls import is_by_sample as is_by_sample
    from dmq_cli.models.module_calls import named_arguments as named_arguments
    from dmq_cli.models.module_calls import nested as nested
    from dmq_cli.models.module_calls import packed as packed
    from dmq_cli.models.numerics import Numerics as Numerics
    from dmq_cli.models.origin import countable as countable
    from dmq_cli.models.origin import has_mid_attention as has_mid_attention
    from dmq_cli.models.origin import identified as identified
    from dmq_cli.models.origin import is_random as is_random
    from dmq_cli.models.origin import is_random_latent as is_random_latent
    from dmq_cli.models.origin import model_adapter as model_adapter
    from dmq_cli.models.origin import model_conditions as model_conditions
    from dmq_cli.models.origin import model_decoder as model_decoder
    from dmq_cli.models.origin import model_encoder as model_encoder
    from dmq_cli.models.origin import model_encoder_sha256 as model_encoder_sha256
    from dmq_cli.models.origin import model_schedule as model_schedule
    from dmq_cli.models.origin import model_shapes as model_shapes
    from dmq_cli.models.prediction import NOISE as NOISE
    from dmq_cli.models.prediction import Prediction as Prediction
    from dmq_cli.models.prediction import levels as levels
    from dmq_cli.models.prediction import prediction_of as prediction_of
    from dmq_cli.models.roles import ATTENTION_SLOTS as ATTENTION_SLOTS
    from dmq_cli.models.roles import LAYER_SLOTS as LAYER_SLOTS
    from dmq_cli.models.roles import PARTS as PARTS
    from dmq_cli.models.roles import PRODUCTS as PRODUCTS
    from dmq_cli.models.roles import ROLES as ROLES
    from dmq_cli.models.roles import fits as fits
    from dmq_cli.models.schedule import PREDICTIONS as PREDICTIONS
    from dmq_cli.models.schedule import noise_schedule as noise_schedule
    from dmq_cli.models.schedule import scheduler_defaults as scheduler_defaults
    from dmq_cli.models.structure import executed as executed
    from dmq_cli.models.structure import run_once as run_once
    from dmq_cli.models.unet import UNetAdapter as UNetAdapter
    from dmq_cli.models.weights import folder_sha256 as folder_sha256

__getattr__, __all__ = late(
    __name__,
    {
        "adapter": (
            "Adapter",
            "Layer",
            "Site",
            "sites",
        ),
        "attention_calls": ("check_attentions",),
        "cond_unet": ("CondUNetAdapter",),
        "conditions": (
            "Classes",
            "Conditions",
        ),
        "denoiser": (
            "Cond",
            "cond_rows",
            "Call",
            "Denoiser",
            "InBatches",
            "ModelDenoiser",
            "device_of",
            "home",
            "predict",
        ),
        "digits_cnn": ("DigitsCNN",),
        "fashion_cnn": ("FashionCNN",),
        "dit": ("DiTAdapter",),
        "expected": ("check_expected",),
        "families": (
            "Family",
            "Told",
            "register",
        ),
        "first_stage": (
            "Decoder",
            "Encoder",
        ),
        "folder": (
            "load_adapter",
            "load_schedule",
        ),
        "image_sizes": (
            "image_shape",
            "sample_bytes",
        ),
        "module_calls": (
            "is_by_sample",
            "named_arguments",
            "nested",
            "packed",
        ),
        "numerics": ("Numerics",),
        "origin": (
            "countable",
            "has_mid_attention",
            "identified",
            "is_random",
            "is_random_latent",
            "model_adapter",
            "model_conditions",
            "model_decoder",
            "model_encoder",
            "model_encoder_sha256",
            "model_schedule",
            "model_shapes",
        ),
        "prediction": (
            "NOISE",
            "Prediction",
            "levels",
            "prediction_of",
        ),
        "roles": (
            "ATTENTION_SLOTS",
            "LAYER_SLOTS",
            "PARTS",
            "PRODUCTS",
            "ROLES",
            "fits",
        ),
        "schedule": (
            "PREDICTIONS",
            "noise_schedule",
            "scheduler_defaults",
        ),
        "structure": (
            "executed",
            "run_once",
        ),
        "unet": ("UNetAdapter",),
        "weights": ("folder_sha256",),
    },
)
