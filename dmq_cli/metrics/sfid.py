"""sFID (Nash et al., ICML 2021, 2103.03841): the Fréchet distance on Inception's spatial features, see inception.py."""

from __future__ import annotations

from dataclasses import dataclass

from dmq_cli.metrics.fd import FrechetOn
from dmq_cli.metrics.metric import DOWN, Shown


@dataclass(frozen=True)
class SpatialFrechetDistance(FrechetOn):
    """sfid, as openai/guided-diffusion computes it."""

    name = "sfid"
    results = (Shown("sfid", "sFID", DOWN, distance=True),)
    layers = ("spatial",)
    extractors = ("inception-v3-compat",)
    reference = "spatial"
