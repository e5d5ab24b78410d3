"""A measured number as a paper's table shows it, read from an evaluation by the table's column."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmq_cli.results.record import Evaluation, Number
from dmq_cli.results.verdict import with_noise

_TWINS = {"quantized": "fp"}  # where the number of full precision stands


@dataclass(frozen=True)
class Entry:
    """A number of a table. above: its difference to full precision's from the same noise, where that is known."""

    number: Number
    shown: str
    above: Number | None = None

    @property
    def value(self) -> float:
        """The number itself."""
        return self.number.value


def measured(cell: Evaluation, column: str, full: bool = False) -> Entry | None:
    """Read a column's number from a cell; None if the cell has none. column: such as quantized.fd or paired.psnr.

    full: that of the full-precision twin, which is not paired with anything.
    """
    side, _, key = column.partition(".")
    side = _TWINS.get(side, "") if full else side
    number = cell.number(side, key)
    if number is None:
        return None
    above = cell.over_fp.get(key) if side == "quantized" else None
    return Entry(number, with_noise(number, key), above)


def difference(a: Entry, b: Entry, apart: Number | None = None) -> Number:
    """a - b of two rows with the same full-precision images, with its noise where that is known.

    apart: the same image by image, which is taken where it is known; else as of independent differences to full precision.
    """
    if apart is not None:
        return apart
    first, second = (a.above, b.above) if a.above is not None and b.above is not None else (a.number, b.number)
    value = first.value - second.value
    if first.half is None or second.half is None:
        return Number(value)
    half = math.hypot(first.half, second.half)
    return Number(value, (value - half, value + half))
