"""The gain of TAC's noise estimation reconstruction in closed form.

Yao et al.: Timestep-Aware Correction for Quantized Diffusion Models, ECCV 2024 (arXiv 2407.03917), eq. 16-19. Deviations
and choices: see tac.py, whose options are used here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dmq_cli.errors import NumericsError

if TYPE_CHECKING:
    from dmq_cli.correct.tac import Tac


def solve_gain(config: Tac, quantized: Tensor, full: Tensor, call: int = 0) -> Tensor:
    """K of eq. 19 for every channel, (C,), from the two noise estimates (S, C, H, W). Raises NumericsError if not finite."""
    pixels = full[0].numel()
    size = full.abs()
    tau = config.k_threshold * size.mean((1, 2, 3), keepdim=True)
    kept = ((full if config.mask == "one_sided" else size) > tau).to(full)
    floor = 1e-3 * size.mean()
    safe = torch.where(size < floor, floor.copysign(full), full)
    ratio = torch.where(kept > 0, quantized / safe, 0.0)  # an estimate that is 0 everywhere has quotients of no number
    weight = config.lambda1 * (pixels if config.relative_term == "sum" else 1)
    above = (1 - config.lambda1) * quantized * full * kept + weight * ratio * kept
    below = (1 - config.lambda1) * quantized**2 * kept + weight * ratio**2 * kept
    pulled = config.lambda2 * pixels
    above, below = above.sum((2, 3)) + pulled, below.sum((2, 3)) + pulled
    gain = above.sum(0) / below.sum(0) if config.pooling == "samples" else (above / below).mean(0)
    if not bool(gain.isfinite().all()):
        raise NumericsError(f"The noise gain K at call {call} is not finite: {_reason(config, quantized, full)}.")
    return gain.clamp(*config.clamp)


def _reason(config: Tac, quantized: Tensor, full: Tensor) -> str:
    """Why a gain is not finite, and what to do."""
    for name, estimate in (("quantized", quantized), ("full-precision", full)):
        if not bool(estimate.isfinite().all()):
            return f"the {name} network's estimate has NaN or infinity in it, so look for the step that made it"
    if config.lambda2 == 0:
        return (
            "in some channel no pixel is above the mask, or the quantized estimate is zero there, and correct.lambda2=0 leaves K"
            " open; give correct.lambda2 a positive value, which then sets K to 1"
        )
    return "the estimates are too large for these sums, so look at the weights of the model"
