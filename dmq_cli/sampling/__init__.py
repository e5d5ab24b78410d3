"""From noise to images, for anything that is a Denoiser."""

from dmq_cli.sampling.ddim import DDIM
from dmq_cli.sampling.deterministic import PLMS, DPMpp2M, DPMpp2S, Euler, UniPC
from dmq_cli.sampling.follow import Followed, followed, neutral
from dmq_cli.sampling.guidance import TARGETS, UNGUIDED, Guide, Guided, Halves, Target
from dmq_cli.sampling.loop import Correction, Step, batches, sample_images, walk
from dmq_cli.sampling.scheduler import Scheduler
from dmq_cli.sampling.seeds import parse_range, parse_ranges, require_disjoint, show
from dmq_cli.sampling.settings import Deterministic, Sampler
from dmq_cli.sampling.solvers import Solver
from dmq_cli.sampling.spacing import spaced

__all__ = [
    "DDIM",
    "PLMS",
    "TARGETS",
    "UNGUIDED",
    "Correction",
    "DPMpp2M",
    "DPMpp2S",
    "Deterministic",
    "Euler",
    "Followed",
    "Guide",
    "Guided",
    "Halves",
    "Sampler",
    "Scheduler",
    "Solver",
    "Step",
    "Target",
    "UniPC",
    "batches",
    "followed",
    "neutral",
    "parse_range",
    "parse_ranges",
    "require_disjoint",
    "sample_images",
    "show",
    "spaced",
    "walk",
]
