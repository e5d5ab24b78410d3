"""Reconstruction: learned rounding, learned scales, fine-tuning."""

from dmq_cli.recon.capture import record
from dmq_cli.recon.curves import curves
from dmq_cli.recon.learners import AdaRound, SignSteps
from dmq_cli.recon.learning import LossReport, placed
from dmq_cli.recon.method import ReconMethod, Targets
from dmq_cli.recon.passes import Pass
from dmq_cli.recon.quest import Quest
from dmq_cli.recon.reconstruction import LearnUnit, NoReconstruction, Reconstruction
from dmq_cli.recon.scales import Scales
from dmq_cli.recon.space import bytes_of_targets, require_space
from dmq_cli.recon.units import module_names

__all__ = [
    "AdaRound",
    "LearnUnit",
    "LossReport",
    "NoReconstruction",
    "Pass",
    "Quest",
    "ReconMethod",
    "Reconstruction",
    "Scales",
    "SignSteps",
    "Targets",
    "bytes_of_targets",
    "curves",
    "module_names",
    "placed",
    "record",
    "require_space",
]
