"""What stands where a tensor may be quantized: one quantizer, several side by side or in turn, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Protocol, cast

import torch
from torch import Tensor, nn


class SiteQuantizer(Protocol):
    """TensorQuantizer, Split, Choice or FullPrecision. All of them are modules."""

    @property
    def enabled(self) -> bool:
        """Whether it quantizes now."""
        ...

    @property
    def parts(self) -> Sequence[nn.Module]:
        """Those that it is made of."""
        ...

    def pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """x as its parts see it: cut where they lie side by side."""
        ...

    def interval(self, x: Tensor) -> Tensor:
        """The distance of two codes for x at the current step, 0-dim float64: the mean over parts, channels and samples.

        NaN where codes have no common distance, or nothing is quantized.
        """
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """x quantized and back, in x's shape and dtype."""
        ...


class FullPrecision(nn.Identity):
    """Leaves a tensor as it is."""

    enabled: ClassVar[bool] = False
    parts: ClassVar[tuple[nn.Module, ...]] = ()

    def pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        """The whole."""
        return (x,)

    def interval(self, x: Tensor) -> Tensor:
        """There is none: NaN."""
        return no_interval(x)


def no_interval(x: Tensor) -> Tensor:
    """NaN as an interval, on x's device."""
    return torch.full((), torch.nan, dtype=torch.float64, device=x.device)


def site_quantizer(module: nn.Module) -> SiteQuantizer:
    """A module that stands at a site, typed."""
    return cast(SiteQuantizer, module)
