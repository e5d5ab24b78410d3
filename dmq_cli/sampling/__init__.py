"""From noise to images, for anything that is a Denoiser."""

from dmq_cli.sampling.ddim import DDIM
from dmq_cli.sampling.loop import Correction, Sampler, Step, batches, sample_images, walk
from dmq_cli.sampling.seeds import parse_range, parse_ranges, require_disjoint, show

__all__ = [
    "DDIM",
    "Correction",
    "Sampler",
    "Step",
    "batches",
    "parse_range",
    "parse_ranges",
    "require_disjoint",
    "sample_images",
    "show",
    "walk",
]
