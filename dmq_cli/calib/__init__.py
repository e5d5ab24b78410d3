"""Calibration: choose the inputs on which the network is observed, and fit the ranges of quantizers to them."""

from dmq_cli.calib.collect import Collection, collect
from dmq_cli.calib.daq import choose_by_likelihood
from dmq_cli.calib.fit import fit_activations, fit_weights
from dmq_cli.calib.normal_t import NormalT
from dmq_cli.calib.random_t import RandomT
from dmq_cli.calib.snr import choose_by_snr
from dmq_cli.calib.strategy import Strategy
from dmq_cli.calib.tdac import Tdac
from dmq_cli.calib.uniform import UniformSteps as Uniform  # the public name of the strategy

__all__ = [
    "Collection",
    "NormalT",
    "RandomT",
    "Strategy",
    "Tdac",
    "Uniform",
    "choose_by_likelihood",
    "choose_by_snr",
    "collect",
    "fit_activations",
    "fit_weights",
]
