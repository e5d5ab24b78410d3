"""Corrections at sampling time, on top of a quantized network."""

from dmq_cli.correct.base import NoCorrection
from dmq_cli.correct.denoiser import CorrectedDenoiser
from dmq_cli.correct.tac import Tac, TacCorrection, solve_gain

__all__ = ["CorrectedDenoiser", "NoCorrection", "Tac", "TacCorrection", "solve_gain"]
