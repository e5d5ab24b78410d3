"""Corrections at sampling time, on top of a quantized network."""

from dmq_cli.correct.base import CorrectionMethod, NoCorrection
from dmq_cli.correct.corrected import CorrectedDenoiser
from dmq_cli.correct.ptqd import Ptqd, PtqdCorrection
from dmq_cli.correct.tac import Tac, TacCorrection, solve_gain

__all__ = [
    "CorrectedDenoiser",
    "CorrectionMethod",
    "NoCorrection",
    "Ptqd",
    "PtqdCorrection",
    "Tac",
    "TacCorrection",
    "solve_gain",
]
