"""Roundings: from x/scale to an integer. Nearest, learned (AdaRound, SignRound), and learned once and for all.

M. Nagel et al., Up or Down? Adaptive Rounding for Post-Training Quantization, ICML 2020, arXiv:2004.10568,
eq. 23 (rectified sigmoid) and 24 (regulariser). Compared with github.com/yhhhli/BRECQ,
quant/adaptive_rounding.py @ 2cbdc7e.
W. Cheng et al., Optimize Weight Rounding via Signed Gradient Descent for the Quantization of LLMs, EMNLP Findings 2024,
arXiv:2309.05516, eq. 3 (a learned offset in [-0.5, 0.5] before rounding).

Deliberate deviations: AdaRound's fraction is kept 5e-7 away from 0 and 1 at the start, so that a weight that lies
exactly on the grid does not sit on the flat side of the rectifier, where it would never get a gradient. SignRound's
learned clipping of the range belongs to the scale, not to the rounding (`recon.SignSteps`, ranges).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.ops import round_ste

ZETA = 1.1
GAMMA = -0.1
EDGE = 5e-7


class LearnedRound(Protocol):
    """A rounding with parameters."""

    def frozen(self) -> FixedRound:
        """The decisions it has come to."""
        ...


class Nearest(nn.Module):
    """To the nearest integer, half to even, with a straight-through gradient."""

    def forward(self, u: Tensor) -> Tensor:
        """u: any shape."""
        return round_ste(u)


class SoftRound(nn.Module):
    """Down plus a learned part h in [0, 1] of the way up (AdaRound). Starts where it does not round at all.

    alpha: the parameter, in the weight's shape. hard: False while learning; True rounds up where alpha >= 0.
    """

    def __init__(self, fraction_source: Tensor) -> None:
        """fraction_source: the weight over its scale; h starts as its fractional part, up to 5e-7."""
        super().__init__()
        u = fraction_source.detach()
        fraction = (u - torch.floor(u)).clamp(EDGE, 1 - EDGE)
        self.alpha = nn.Parameter(-torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1))
        self.hard = False

    def h(self) -> Tensor:
        """The rectified sigmoid of alpha, in [0, 1] (eq. 23)."""
        return (torch.sigmoid(self.alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self, u: Tensor) -> Tensor:
        """u: in alpha's shape; no gradient reaches it. Returns floor(u) + h, or integers when hard."""
        _check_shape(u, self.alpha)
        up = (self.alpha >= 0).to(u.dtype) if self.hard else self.h()
        return torch.floor(u.detach()) + up

    def regulariser(self, beta: float) -> Tensor:
        """Sum of 1 - |2h - 1|^beta over all weights (eq. 24), a scalar: 0 if each h is 0 or 1. beta > 0."""
        return (1 - (2 * self.h() - 1).abs().pow(beta)).sum()

    def frozen(self) -> FixedRound:
        """The rounding that `hard` gives now, without alpha."""
        return FixedRound(self.alpha.detach() >= 0)


class SignRound(nn.Module):
    """To the nearest integer of u + offset, the offset learned in [-0.5, 0.5]: down or up, also on ties. Starts as Nearest.

    offset: the parameter, in the weight's shape.
    """

    source: Tensor

    def __init__(self, fraction_source: Tensor) -> None:
        """fraction_source: the weight over its scale; only needed to freeze the decisions."""
        super().__init__()
        u = fraction_source.detach()
        self.offset = nn.Parameter(torch.zeros_like(u))
        self.register_buffer("source", u.clone())

    def forward(self, u: Tensor) -> Tensor:
        """u: in offset's shape. Returns integers; straight-through gradients to u and offset."""
        _check_shape(u, self.offset)
        moved, down = u + self.offset.clamp(-0.5, 0.5), torch.floor(u.detach())
        return moved + (torch.round(moved).clamp(down, down + 1) - moved).detach()

    @torch.no_grad()
    def frozen(self) -> FixedRound:
        """The decisions of now."""
        return FixedRound(self(self.source) > torch.floor(self.source))


class FixedRound(nn.Module):
    """Down, plus one where `up` is set. What AdaRound leaves behind; `up` is a buffer of bool."""

    up: Tensor

    def __init__(self, up: Tensor) -> None:
        """up: bool, in the weight's shape."""
        super().__init__()
        self.register_buffer("up", up.detach().to(torch.bool).clone())

    def forward(self, u: Tensor) -> Tensor:
        """u: in up's shape. Returns integers; no gradient reaches u."""
        _check_shape(u, self.up)
        return torch.floor(u.detach()) + self.up.to(u.dtype)


def _check_shape(u: Tensor, learned: Tensor) -> None:
    if u.shape != learned.shape:
        raise ConfigError(
            f"A learned rounding was asked for a tensor of shape {tuple(u.shape)}, it was made for "
            f"{tuple(learned.shape)}; learned roundings fit only the weight they were made from."
        )
