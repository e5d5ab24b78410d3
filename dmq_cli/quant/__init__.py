"""Quantizers as a product: grid x scale source x rounding."""

from dmq_cli.quant.context import StepContext, TimeGrid
from dmq_cli.quant.grids import Grid, Log2, Uniform
from dmq_cli.quant.quantizer import TensorQuantizer
from dmq_cli.quant.rounding import FixedRound, Nearest, SoftRound
from dmq_cli.quant.scales import Dynamic, PerStep, Static
from dmq_cli.quant.split import Split

__all__ = [
    "Dynamic",
    "FixedRound",
    "Grid",
    "Log2",
    "Nearest",
    "PerStep",
    "SoftRound",
    "Split",
    "Static",
    "StepContext",
    "TensorQuantizer",
    "TimeGrid",
    "Uniform",
]
