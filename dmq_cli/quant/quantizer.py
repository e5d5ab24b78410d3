"""The one quantizer: a grid, a source of scales and a rounding."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.ops import double
from dmq_cli.quant.grids import Grid, Log2
from dmq_cli.quant.rounding import FixedRound, SignRound, SoftRound
from dmq_cli.quant.scales import Dynamic, ScaleSource, source_of
from dmq_cli.quant.site_quantizer import SiteQuantizer


class TensorQuantizer(SiteQuantizer):
    """Fake-quantizes a tensor. enabled=False returns it untouched.

    drop: the part of the elements, drawn at each call, that pass unquantized (Wei et al., QDrop, ICLR 2022,
    arXiv:2203.05740); 0 except while learning.
    """

    drop = 0.0
    enabled = True
    parts: tuple[nn.Module, ...] = ()

    def __init__(self, grid: Grid, scale: nn.Module, rounding: nn.Module) -> None:
        """scale: see ScaleSource; rounding: `rounding(x / scale)`, same shape.

        ConfigError for parts that make no sense together: a learned rounding on Log2 or on scales that
        vary, and a Dynamic that was made for another grid.
        """
        super().__init__()
        _check_rounding(grid, scale, rounding)
        _check_dynamic(grid, scale)
        self.grid = grid
        self.scale = scale
        self.rounding = rounding

    def extra_repr(self) -> str:
        """The grid, for printing."""
        return f"grid={self.grid}"

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return self.grid.bits

    def interval(self, x: Tensor) -> Tensor:
        """See SiteQuantizer: the mean of its scales."""
        if isinstance(self.grid, Log2):
            return super().interval(x)
        return double(source_of(self)(x)[0]).mean()

    def forward(self, x: Tensor) -> Tensor:
        """x quantized and back, in x's shape and dtype; computed in float32 where x is of half precision."""
        if not self.enabled:
            return x
        wide = _wide(x)
        scale, zero_point = self.scale(wide)
        quantized = self.grid(wide, scale, zero_point, self.rounding).to(x.dtype)
        return torch.where(torch.rand_like(x) < self.drop, x, quantized) if self.drop else quantized

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> TensorQuantizer:
        """As a module's own, but scales keep their precision where a network is brought to half: their codes would move."""
        super()._apply(lambda tensor: _not_halved(fn(tensor), tensor), recurse)  # type: ignore[no-untyped-call]
        return self

    def codes(self, x: Tensor) -> Tensor:
        """The integer-valued codes of x, in a floating dtype, whether enabled or not."""
        wide = _wide(x)
        scale, zero_point = self.scale(wide)
        return self.grid.codes(wide, scale, zero_point, self.rounding)


def _not_halved(moved: Tensor, before: Tensor) -> Tensor:
    narrowed = moved.is_floating_point() and moved.element_size() < 4 <= before.element_size()
    return before.to(moved.device) if narrowed else moved


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _check_rounding(grid: Grid, scale: nn.Module, rounding: nn.Module) -> None:
    if not isinstance(rounding, SoftRound | SignRound | FixedRound):
        return
    for part, wrong in ((grid, isinstance(grid, Log2)), (scale, cast(ScaleSource, scale).varies)):
        if wrong:
            raise ConfigError(
                f"A quantizer was asked to combine {type(rounding).__name__} with {type(part).__name__}; "
                "learned rounding needs a Uniform grid whose scale stays as it is, or use Nearest."
            )


def _check_dynamic(grid: Grid, scale: nn.Module) -> None:
    if isinstance(scale, Dynamic) and scale.grid != grid:
        raise ConfigError(f"A quantizer on {grid} was given Dynamic scales for {scale.grid}; give both the same grid.")
