"""Where a range begins while its scale is learned.

The released codes of BRECQ, QDrop, Q-Diffusion, EDA-DM and QuEST learn the scale and leave the integer zero point as it is
(`scale`): the lower end, -zero_point * scale, then moves with the scale, and where the scale shrinks the negative lobe of a
SiLU is clipped. `low_fixed` keeps the lower end where calibration put it and derives the zero point from it, rounded with a
straight-through gradient; `low_learned` learns the lower end as well, the counterpart of the learned offset in Bhalgat et al.,
LSQ+, CVPRW 2020, arXiv:2004.09576, eq. 4. Deliberate deviation from LSQ+: the zero point stays a code, so that zero (of padding) is
exact and the product stays one of integers; LSQ+ has a real offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from dmq_cli.errors import SchemeError
from dmq_cli.ops import round_ste

Ends = Literal["scale", "low_fixed", "low_learned"]
"""Which ends of a range learning moves: both with the scale, the upper one, or each by itself."""
ENDS: tuple[Ends, ...] = get_args(Ends)


@dataclass(frozen=True)
class LowEnd:
    """lo, hi: the grid's codes; learned: whether gradients change the lower end."""

    lo: int
    hi: int
    learned: bool

    def zero_point(self, low: Tensor, scale: Tensor) -> Tensor:
        """The code that stands for 0 where the lowest one stands for `low` (<= 0): lo - low / scale, rounded, at most hi.

        Gradients pass straight through the rounding, to both.
        """
        return torch.clamp(round_ste(self.lo - low / scale), self.lo, self.hi)


class WithLowEnd(nn.Module):
    """The lower end of a source of scales: a stored zero point, or a stored lower end that zero points follow from."""

    low_end: LowEnd | None
    zero_point: Tensor
    """Where the zero point is stored; None where a lower end is."""
    low: nn.Parameter
    """Where the lower end is stored, in its place."""

    def _store_low(self, low_end: LowEnd | None, scale: Tensor, zero_point: Tensor) -> None:
        """Register what is stored, for these scales and zero points, in shape and dtype of the scales."""
        self.low_end = low_end
        zero_point = zero_point.detach().clone().to(scale)
        self.register_buffer("zero_point", zero_point if low_end is None else None)
        low = None if low_end is None else nn.Parameter((low_end.lo - zero_point) * scale.detach(), requires_grad=False)
        self.register_parameter("low", low)

    def _fill_low(self, scale: Tensor, zero_point: Tensor, low: Tensor | None) -> None:
        """Take fitted values; low None: the lower end of scale and zero point."""
        if self.low_end is None:
            put(self.zero_point, zero_point)
        else:
            put(self.low, (self.low_end.lo - zero_point) * scale if low is None else low)

    def _zero_point(self, scale: Tensor) -> Tensor:
        """The zero points of these scales, which broadcast to what is stored."""
        return self.zero_point if self.low_end is None else self.low_end.zero_point(self.low, scale)

    def low_ends(self) -> list[nn.Parameter]:
        """The lower end, where it learns as a parameter of its own."""
        return [self.low] if self.low_end is not None and self.low_end.learned else []


@torch.no_grad()
def put(place: Tensor, value: Tensor) -> None:
    """Copy as many values as the place has, whatever their shape."""
    place.copy_(value.reshape(place.shape))


def check_ends(ends: str) -> None:
    """SchemeError for a name that is none of `Ends`."""
    if ends not in ENDS:
        raise SchemeError(f"A scheme was asked for range={ends}, which is not known; use {', '.join(ENDS)}.")
