"""The function of every stage, by its name in nodes.py; imported when the first stage runs, and with it diffusers."""

from dmq_cli.stages.export import export as export
from dmq_cli.stages.images import evaluate as evaluate
from dmq_cli.stages.images import evaluate_fp as evaluate_fp
from dmq_cli.stages.images import sample as sample
from dmq_cli.stages.images import sample as sample_fp
from dmq_cli.stages.quantize import calibrate as calibrate
from dmq_cli.stages.quantize import calibset as calibset
from dmq_cli.stages.quantize import correct as correct
from dmq_cli.stages.quantize import reconstruct as reconstruct
from dmq_cli.stages.quantize import targets as targets
from dmq_cli.stages.quantize import transform as transform
from dmq_cli.stages.tracing import trace as trace
from dmq_cli.stages.training_set import training_set as training_set

__all__ = [
    "calibrate", "calibset", "correct", "evaluate", "evaluate_fp", "export", "reconstruct", "sample", "sample_fp", "targets", "trace",
    "training_set", "transform",
]  # fmt: skip
