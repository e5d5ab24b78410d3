"""FD-DINOv2 (Stein et al., NeurIPS 2023, 2306.04675): the Fréchet distance on DINOv2's features, see semantic.py."""

from __future__ import annotations

from dataclasses import dataclass

from dmq_cli.metrics.fd import FrechetOn
from dmq_cli.metrics.metric import DOWN, Shown


@dataclass(frozen=True)
class FrechetDistanceDinov2(FrechetOn):
    """fd_dinov2, with the folder that protocol.dinov2_path names."""

    name = "fd_dinov2"
    results = (Shown("fd_dinov2", "FD-DINOv2", DOWN, distance=True),)
    layers = ("dinov2",)
    weights = "dinov2"
    reference = "dinov2"
