"""Grids: which values a code can stand for. Scale and zero point are passed in, so grids are plain records.

They are not modules: they have nothing to train or store, and `parameters` would hide `nn.Module.parameters`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.ops import (
    Rounding,
    fake_log2,
    fake_uniform,
    log2_codes,
    round_ste,
    smallest_scale,
    uniform_codes,
)
from dmq_cli.quant.rounding import Nearest


class Grid(Protocol):
    """2^bits codes, lo to hi. Scale > 0 and zero_point (integer-valued) broadcast to x everywhere."""

    @property
    def bits(self) -> int:
        """Bits of a code."""
        ...

    @property
    def lo(self) -> int:
        """The lowest code."""
        ...

    @property
    def hi(self) -> int:
        """The highest code."""
        ...

    def parameters(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point, in the given shape, that cover [minimum, maximum] and 0; scale >= 1e-8."""
        ...

    def codes(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """Integer-valued codes in [lo, hi], in x's shape and a floating dtype."""
        ...

    def fake(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """x quantized to the nearest code and back; x's shape and dtype, differentiable."""
        ...

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """`fake` with a rounding."""
        ...


@dataclass(frozen=True)
class Uniform:
    """Equally spaced values, scale * (code - zero_point).

    Default: codes 0 .. 2^bits - 1, with a zero point that places the range. symmetric: codes -2^(bits-1) ..
    2^(bits-1) - 1, zero point 0, scale = absmax / (2^(bits-1) - 1). from_zero: codes 0 .. 2^bits - 1, zero
    point 0, scale = maximum / (2^bits - 1), for values that are never negative (attention probabilities). narrow: symmetric without
    the lowest code, so that a range and its negative have the same codes.

    bits: 1..16, symmetric 2..16. ConfigError otherwise, for symmetric together with from_zero, and for narrow without symmetric.
    """

    bits: int
    symmetric: bool = False
    from_zero: bool = False
    narrow: bool = False

    def __post_init__(self) -> None:
        _check_bits("Uniform", self.bits, least=2 if self.symmetric else 1)
        if self.symmetric and self.from_zero:
            raise ConfigError(
                "Uniform was asked to be both symmetric and from_zero; choose symmetric for signed values or "
                "from_zero for values that are never negative."
            )
        if self.narrow and not self.symmetric:
            raise ConfigError(
                "Uniform was asked to be narrow, which symmetric grids can be; add symmetric, or leave narrow out."
            )

    @property
    def lo(self) -> int:
        """The lowest code."""
        return int(self.narrow) - (1 << (self.bits - 1)) if self.symmetric else 0

    @property
    def hi(self) -> int:
        """The highest code."""
        return (1 << (self.bits - self.symmetric)) - 1

    def parameters(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        """See `Grid.parameters`. symmetric covers the greater of the two sides; from_zero ignores minimum."""
        maximum = maximum.clamp_min(0)
        minimum = torch.zeros_like(maximum) if self.from_zero else minimum.clamp_max(0)
        if self.symmetric:
            scale = _positive(torch.maximum(-minimum, maximum) / self.hi)
            return scale, torch.zeros_like(scale)
        scale = _positive((maximum - minimum) / self.hi)
        return scale, torch.round(-minimum / scale).clamp(self.lo, self.hi)

    def codes(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """See `Grid.codes`."""
        return uniform_codes(x, scale, zero_point, self.lo, self.hi, _plain(rounding))

    def fake(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """See `Grid.fake`."""
        return fake_uniform(x, scale, zero_point, self.lo, self.hi)

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """See `ops.fake_uniform`."""
        return fake_uniform(x, scale, zero_point, self.lo, self.hi, _plain(rounding))


@dataclass(frozen=True)
class Log2:
    """Zero and powers of two, scale * 2^-code, for values that are never negative (attention probabilities).

    Codes 0 .. 2^bits - 2 are exponents and the last one, 2^bits - 1, is zero. Deliberate deviation from
    released code (FQ-ViT @ cc85d55), which has zero besides 2^bits exponents, one too many.

    bits: 1..16. ConfigError otherwise.
    """

    bits: int

    def __post_init__(self) -> None:
        _check_bits("Log2", self.bits, least=1)

    @property
    def lo(self) -> int:
        """The lowest code."""
        return 0

    @property
    def hi(self) -> int:
        """The highest code, which is zero."""
        return (1 << self.bits) - 1

    def parameters(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        """Scale = maximum, zero point 0; minimum is ignored."""
        scale = _positive(maximum)
        return scale, torch.zeros_like(scale)

    def codes(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """See `ops.log2_codes`; zero_point is ignored."""
        return log2_codes(x, scale, self.hi - 1, _plain(rounding))

    def fake(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """See `Grid.fake`; zero_point is ignored."""
        return fake_log2(x, scale, self.hi - 1)

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """See `ops.fake_log2`; zero_point is ignored."""
        return fake_log2(x, scale, self.hi - 1, _plain(rounding))


def _plain(rounding: Rounding) -> Rounding:
    # ops know the nearest rounding by its function, and have a faster way for it.
    return round_ste if isinstance(rounding, Nearest) else rounding


def _positive(scale: Tensor) -> Tensor:
    return scale.clamp_min(smallest_scale(scale.dtype))


def _check_bits(name: str, bits: object, least: int) -> None:
    if isinstance(bits, bool) or not isinstance(bits, int) or not least <= bits <= 16:
        raise ConfigError(f"{name} was asked for bits={bits!r}; choose a whole number in {least}..16.")
