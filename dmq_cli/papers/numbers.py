"""One measured number with its noise, and what a column of a paper means in metrics.json."""

from __future__ import annotations

from dataclasses import dataclass

from dmq_cli.papers.cells import Cell
from dmq_cli.report.tables import how_shown
from dmq_cli.results.noise import Measured, inside_noise
from dmq_cli.results.noise import measured as measured_number

_TWINS = {"quantized": "fp"}  # where the number of full precision stands


@dataclass(frozen=True)
class Number(Measured):
    """A number as a table shows it. above: how far it is above full precision's of the same noise, where that is known."""

    shown: str
    above: Measured | None = None


def measured(cell: Cell, column: str, full: bool = False) -> Number | None:
    """A column's number in a cell, None if the cell has none. column: such as quantized.fd or paired.psnr.

    full: that of the full-precision twin, which is not paired with anything.
    """
    group, _, key = column.partition(".")
    group = _TWINS.get(group, "") if full else group
    found, digits = measured_number(cell, group, key), how_shown(key).digits
    if found is None:
        return None
    above = measured_number(cell, "over_fp", key) if group == "quantized" else None
    return Number(found.value, found.half, f"{found.value:.{digits}f}{_noise(cell, group, key, digits)}", above)


def told_apart(a: Number, b: Number, apart: Measured | None = None) -> bool | None:
    """Whether two numbers of rows with the same full-precision twin are outside the noise; None where it is not known.

    apart: a - b image by image, which decides where it is known.
    """
    if apart is not None:
        return not inside_noise(apart, Measured(0.0, 0.0))
    pair = (a.above, b.above) if a.above is not None and b.above is not None else (a, b)
    inside = inside_noise(*pair)
    return None if inside is None else not inside


def _noise(cell: Cell, group: str, key: str, digits: int) -> str:
    if (spread := cell[group].get(f"{key}_over_seeds")) is not None:
        return f" ± {spread['std']:.{digits}f}"
    low, high = cell.get("intervals", {}).get(group, {}).get(key, (None, None))
    return "" if low is None else f" [{low:.{digits}f}, {high:.{digits}f}]"
