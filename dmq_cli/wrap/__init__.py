"""Attach quantizers to networks."""

from dmq_cli.wrap.attach import Attached, attach, bake, freeze, observing, place, quantizing
from dmq_cli.wrap.attention import QuantAttention, operands, slot_quantizers
from dmq_cli.wrap.layers import QuantMixin
from dmq_cli.wrap.quant_denoiser import QuantDenoiser
from dmq_cli.wrap.scheme import FULL_PRECISION, Rule, Scheme, Spec, deployable, policy
from dmq_cli.wrap.state import (
    TRAINED,
    extra_state,
    load_extra_state,
    load_quantizer_state,
    load_state,
    quantizer_state,
    state,
)

__all__ = [
    "FULL_PRECISION",
    "TRAINED",
    "Attached",
    "QuantAttention",
    "QuantDenoiser",
    "QuantMixin",
    "Rule",
    "Scheme",
    "Spec",
    "attach",
    "bake",
    "deployable",
    "extra_state",
    "freeze",
    "load_extra_state",
    "load_quantizer_state",
    "load_state",
    "observing",
    "operands",
    "place",
    "policy",
    "quantizer_state",
    "quantizing",
    "slot_quantizers",
    "state",
]
