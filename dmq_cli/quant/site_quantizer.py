"""What stands where a tensor may be quantized: one quantizer, several side by side or in turn, or nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from dmq_cli.ops import double


class SiteQuantizer(nn.Module):
    """Called with x, gives x quantized and back: TensorQuantizer, Split, Choice or FullPrecision. parts: what it is made of."""

    parts: Iterable[nn.Module]

    @property
    def enabled(self) -> bool:
        """Whether anything here quantizes now."""
        return any(site_quantizer(part).enabled for part in self.parts)

    def pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """x as its parts see it: whole, or cut where they lie side by side."""
        return (x,)

    def interval(self, x: Tensor) -> Tensor:
        """The distance of two codes for x at the current step, 0-dim float64: the mean over parts, channels and samples.

        NaN where codes have no common distance, or nothing is quantized.
        """
        return double(torch.full((), torch.nan, device=x.device))


class FullPrecision(SiteQuantizer):
    """Leaves a tensor as it is."""

    parts: tuple[nn.Module, ...] = ()

    def forward(self, x: Tensor) -> Tensor:
        """x itself."""
        return x


def site_quantizer(module: nn.Module) -> SiteQuantizer:
    """A module that stands at a site, typed."""
    return cast(SiteQuantizer, module)
