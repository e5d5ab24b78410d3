"""Ends of a weight's range that learn together with its rounding.

Cheng et al., Optimize Weight Rounding via Signed Gradient Descent, EMNLP Findings 2024 (arXiv 2309.05516): alpha and beta.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmq_cli.ops import round_ste, smallest_scale
from dmq_cli.quant import SignRound, Static, TensorQuantizer, Uniform, source_of


def can_clip(quantizer: TensorQuantizer) -> bool:
    """Whether two ends place its range: not on grids whose zero point is 0 by definition, nor where nothing is stored."""
    grid = quantizer.grid
    placed = isinstance(grid, Uniform) and not (grid.symmetric or grid.from_zero)
    return placed and isinstance(quantizer.scale, Static)


class Clip(nn.Module):
    """Stands in for the scales of one weight quantizer while its ends learn, as factors in [0, 1] of where they were.

    low_factor, high_factor: in the shape of the scale, 1 at first.
    """

    varies = False

    def __init__(self, quantizer: TensorQuantizer, weight: Tensor) -> None:
        super().__init__()
        self.quantizer, self.source, self.weight = (
            [quantizer],
            [source_of(quantizer)],
            weight.detach(),
        )  # not as modules
        scale, zero_point = (value.detach() for value in source_of(quantizer)(weight))
        self.lo, self.hi = quantizer.grid.lo, quantizer.grid.hi
        self.low, self.high = (self.lo - zero_point) * scale, (self.hi - zero_point) * scale
        self.low_factor, self.high_factor = (nn.Parameter(torch.ones_like(scale)) for _ in range(2))
        quantizer.scale = self

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of the range between the ends of now; gradients pass straight through rounding."""
        low, high = self.low * self.low_factor, self.high * self.high_factor
        scale = ((high - low) / (self.hi - self.lo)).clamp_min(smallest_scale(low.dtype))
        return scale, self.lo - round_ste(low / scale)

    @torch.no_grad()
    def finish(self) -> None:
        """Store the range in the quantizer's own scales, and have its rounding decide for them."""
        (quantizer,), (source,) = self.quantizer, self.source
        scale, zero_point = self(self.weight)
        source.fill(scale, zero_point, self.low * self.low_factor)
        quantizer.scale = source  # type: ignore[assignment]
        if isinstance(quantizer.rounding, SignRound):
            quantizer.rounding.source.copy_(self.weight / source(self.weight)[0])
