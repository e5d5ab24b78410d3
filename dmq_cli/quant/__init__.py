"""Quantizers as a product: grid x scale source x rounding."""

from dmq_cli.quant.choice import ByLikelihood, BySnr, Choice, ChoiceKind
from dmq_cli.quant.context import StepContext, TimeGrid
from dmq_cli.quant.grids import Grid, Log2, Uniform
from dmq_cli.quant.low_end import Ends, LowEnd, check_ends
from dmq_cli.quant.quantizer import TensorQuantizer
from dmq_cli.quant.rounding import FixedRound, LearnedRound, Nearest, SignRound, SoftRound
from dmq_cli.quant.scales import Dynamic, Intervals, PerStep, ScaleSource, Static, source_of
from dmq_cli.quant.site_quantizer import FullPrecision, SiteQuantizer, site_quantizer
from dmq_cli.quant.sources import (
    TRAINING_TIMESTEPS,
    DynamicScale,
    IntervalScale,
    MlpScale,
    PerStepScale,
    ScaleKind,
    Slot,
    StaticScale,
)
from dmq_cli.quant.split import Split
from dmq_cli.quant.step_mlp import StepMLP

__all__ = [
    "TRAINING_TIMESTEPS",
    "ByLikelihood",
    "BySnr",
    "Choice",
    "ChoiceKind",
    "Dynamic",
    "DynamicScale",
    "Ends",
    "FixedRound",
    "FullPrecision",
    "Grid",
    "IntervalScale",
    "Intervals",
    "LearnedRound",
    "Log2",
    "LowEnd",
    "MlpScale",
    "Nearest",
    "PerStep",
    "PerStepScale",
    "ScaleKind",
    "ScaleSource",
    "SignRound",
    "SiteQuantizer",
    "Slot",
    "SoftRound",
    "Split",
    "Static",
    "StaticScale",
    "StepContext",
    "StepMLP",
    "TensorQuantizer",
    "TimeGrid",
    "Uniform",
    "check_ends",
    "site_quantizer",
    "source_of",
]
