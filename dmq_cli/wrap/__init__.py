"""Joins quantizers and networks."""

from dmq_cli.wrap.attach import Attached, attach, bake, observing, quantizing
from dmq_cli.wrap.denoiser import QuantDenoiser
from dmq_cli.wrap.scheme import FULL_PRECISION, Rule, Scheme, Spec, policy
from dmq_cli.wrap.state import load_quantizer_state, load_state, quantizer_state, state

__all__ = [
    "FULL_PRECISION",
    "Attached",
    "QuantDenoiser",
    "Rule",
    "Scheme",
    "Spec",
    "attach",
    "bake",
    "load_quantizer_state",
    "load_state",
    "observing",
    "policy",
    "quantizer_state",
    "quantizing",
    "state",
]
