"""Calibration: which inputs the network is watched on, and the ranges that follow."""

from dmq_cli.calib.collect import Uniform, collect
from dmq_cli.calib.fit import fit_activations, fit_weights

__all__ = ["Uniform", "collect", "fit_activations", "fit_weights"]
