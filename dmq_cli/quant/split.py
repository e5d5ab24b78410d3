"""Several quantizers on one tensor, side by side.

The shortcut splitting of X. Li et al., Q-Diffusion, ICCV 2023, arXiv:2302.04304: input and weight of a
convolution behind a skip concatenation get one quantizer per half, without surgery on the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.quant.site_quantizer import SiteQuantizer, site_quantizer


class Split(SiteQuantizer):
    """Each part quantizes its slice of dimension `dim`; the results are joined again."""

    parts: nn.ModuleList

    def __init__(self, sizes: tuple[int, ...], parts: Sequence[nn.Module], dim: int = 1) -> None:
        """sizes: positive, of the slices in order. ConfigError unless there is one part per size."""
        super().__init__()
        self.sizes = tuple(sizes)
        self.dim = dim
        if not self.sizes or len(self.sizes) != len(parts) or min(self.sizes) < 1:
            raise ConfigError(
                f"Split was asked for sizes {self.sizes} with {len(parts)} part(s); "
                "give one part for each size, and sizes of at least 1."
            )
        self.parts = nn.ModuleList(parts)

    def pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """The slices of dimension `dim`, views of x."""
        return torch.split(x, list(self.sizes), self.dim)

    def interval(self, x: Tensor) -> Tensor:
        """See SiteQuantizer."""
        pairs = zip(self.parts, self.pieces(x), strict=True)
        return torch.stack([site_quantizer(part).interval(piece) for part, piece in pairs]).mean()

    def forward(self, x: Tensor) -> Tensor:
        """x: any shape whose dimension `dim` is as long as all sizes together; ConfigError otherwise."""
        if x.shape[self.dim] != sum(self.sizes):
            raise ConfigError(
                f"Split was asked to cut dimension {self.dim} into {self.sizes}, {sum(self.sizes)} in all, "
                f"and found {x.shape[self.dim]}; use the sizes of the tensors that the model concatenates."
            )
        return torch.cat([part(piece) for part, piece in zip(self.parts, self.pieces(x), strict=True)], self.dim)
