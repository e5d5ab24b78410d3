"""One measured number with its noise, and what a column of a paper means in metrics.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dmq_cli.papers.cells import Cell

_DIGITS = {"lpips": 3, "ssim": 3}
_TWINS = {"quantized": "fp"}  # where the number of full precision stands


@dataclass(frozen=True)
class Number:
    """value, and the half width of its 95 % interval: None where nothing says how noisy it is. shown: as a table shows it."""

    value: float
    half: float | None
    shown: str


def measured(cell: Cell, column: str, full: bool = False) -> Number | None:
    """A column's number in a cell, None if the cell has none. column: such as quantized.fd or paired.psnr.

    full: that of the full-precision twin, which is not paired with anything.
    """
    group, _, key = column.partition(".")
    group = _TWINS.get(group, "") if full else group
    if key not in cell.get(group, {}):
        return None
    value, digits = float(cell[group][key]), _DIGITS.get(key, 2)
    if (spread := cell[group].get(f"{key}_over_seeds")) is not None:
        return Number(value, _half_of(spread), f"{value:.{digits}f} ± {spread['std']:.{digits}f}")
    low, high = cell.get("intervals", {}).get(group, {}).get(key, (None, None))
    if low is None:
        return Number(value, None, f"{value:.{digits}f}")
    return Number(value, (high - low) / 2, f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]")


def inside_noise(a: Number, b: Number) -> bool | None:
    """Whether two numbers cannot be told apart: |a - b| <= sqrt(ha^2 + hb^2); None where the noise of one is not known."""
    if a.half is None or b.half is None:
        return None
    return abs(a.value - b.value) <= math.hypot(a.half, b.half)


def _half_of(spread: Mapping[str, Any]) -> float:
    """Of the mean over seed ranges: Student's t with n - 1 degrees of freedom."""
    from scipy.special import stdtrit

    n = len(spread["each"])
    return float(stdtrit(n - 1, 0.975)) * float(spread["std"]) / math.sqrt(n)
