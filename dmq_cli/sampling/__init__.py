"""From noise to images, for anything that is a Denoiser. Its names are imported when they are first used, see late.py."""

from typing import TYPE_CHECKING

from dmq_cli.late import late

if TYPE_CHECKING:
    from dmq_cli.sampling.ddim import DDIM as DDIM
    from dmq_cli.sampling.deterministic import PLMS as PLMS
    from dmq_cli.sampling.deterministic import DPMpp2M as DPMpp2M
    from dmq_cli.sampling.deterministic import DPMpp2S as DPMpp2S
    from dmq_cli.sampling.deterministic import Euler as Euler
    from dmq_cli.sampling.deterministic import UniPC as UniPC
    from dmq_cli.sampling.follow import Followed as Followed
    from dmq_cli.sampling.follow import followed as followed
    from dmq_cli.sampling.follow import neutral as neutral
    from dmq_cli.sampling.guidance import TARGETS as TARGETS
    from dmq_cli.sampling.guidance import UNGUIDED as UNGUIDED
    from dmq_cli.sampling.guidance import Guide as Guide
    from dmq_cli.sampling.guidance import Guided as Guided
    from dmq_cli.sampling.guidance import Halves as Halves
    from dmq_cli.sampling.guidance import Target as Target
    from dmq_cli.sampling.loop import Correction as Correction
    from dmq_cli.sampling.loop import Step as Step
    from dmq_cli.sampling.loop import sample_images as sample_images
    from dmq_cli.sampling.loop import walk as walk
    from dmq_cli.sampling.scheduler import Scheduler as Scheduler
    from dmq_cli.sampling.seeds import batches as batches
    from dmq_cli.sampling.seeds import parse_range as parse_range
    from dmq_cli.sampling.seeds import parse_ranges as parse_ranges
    from dmq_cli.sampling.seeds import require_disjoint as require_disjoint
    from dmq_cli.sampling.seeds import show as show
    from dmq_cli.sampling.settings import Deterministic as Deterministic
    from dmq_cli.sampling.settings import Sampler as Sampler
    from dmq_cli.sampling.solvers import Solver as Solver
    from dmq_cli.sampling.spacing import spaced as spaced

__getattr__, __all__ = late(
    __name__,
    {
        "ddim": ("DDIM",),
        "deterministic": (
            "PLMS",
            "DPMpp2M",
            "DPMpp2S",
            "Euler",
            "UniPC",
        ),
        "follow": (
            "Followed",
            "followed",
            "neutral",
        ),
        "guidance": (
            "TARGETS",
            "UNGUIDED",
            "Guide",
            "Guided",
            "Halves",
            "Target",
        ),
        "loop": (
            "Correction",
            "Step",
            "sample_images",
            "walk",
        ),
        "scheduler": ("Scheduler",),
        "seeds": (
            "batches",
            "parse_range",
            "parse_ranges",
            "require_disjoint",
            "show",
        ),
        "settings": (
            "Deterministic",
            "Sampler",
        ),
        "solvers": ("Solver",),
        "spacing": ("spaced",),
    },
)
