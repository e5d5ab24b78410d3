"""Pure torch functions and records without state: fake quantization, granularity, ranges, random numbers."""

from dmq_cli.ops.channels import by_channel, places, with_places
from dmq_cli.ops.clip import clip_to, noisy_clip
from dmq_cli.ops.devices import CPU, WITHOUT_FLOAT64, double, moved, own_random
from dmq_cli.ops.ema import Ema, SearchedEma
from dmq_cli.ops.fake_quant import (
    Rounding,
    fake_log2,
    fake_uniform,
    log2_codes,
    round_ste,
    scale_gradient,
    smallest_scale,
    uniform_codes,
)
from dmq_cli.ops.granularity import Granularity, PerChannel, PerInputChannel, PerTensor
from dmq_cli.ops.lsq import LsqStart
from dmq_cli.ops.ranges import LpSearch, MinMax, Percentile, Range, RangeEstimator, RangeGrid
from dmq_cli.ops.rng import generators, noise

__all__ = [
    "CPU",
    "WITHOUT_FLOAT64",
    "Ema",
    "Granularity",
    "LpSearch",
    "LsqStart",
    "MinMax",
    "PerChannel",
    "PerInputChannel",
    "PerTensor",
    "Percentile",
    "Range",
    "RangeEstimator",
    "RangeGrid",
    "Rounding",
    "SearchedEma",
    "by_channel",
    "clip_to",
    "double",
    "fake_log2",
    "fake_uniform",
    "generators",
    "log2_codes",
    "moved",
    "noise",
    "noisy_clip",
    "own_random",
    "places",
    "round_ste",
    "scale_gradient",
    "smallest_scale",
    "uniform_codes",
    "with_places",
]
