"""Whether two measured numbers can be told apart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Measured:
    """A number and half the width of its 95 % interval, None where nothing says how much it scatters."""

    value: float
    half: float | None


def measured(metrics: Mapping[str, Any], side: str, key: str) -> Measured | None:
    """A number of metrics.json, None where it was not measured. side: fp, quantized, paired or over_fp.

    Its interval is that of the mean over seed ranges, by Student's t, where there were several; else the stored one of the
    single range; none in cells from before there were intervals.
    """
    numbers = metrics.get(side, {})
    if key not in numbers:
        return None
    value = float(numbers[key])
    if spread := numbers.get(f"{key}_over_seeds"):
        return Measured(value, _of_mean(spread["std"], len(spread["each"])))
    low, high = metrics.get("intervals", {}).get(side, {}).get(key, (None, None))
    return Measured(value, None if low is None else (high - low) / 2)


def inside_noise(a: Measured, b: Measured) -> bool | None:
    """Whether |a - b| <= sqrt(half_a^2 + half_b^2): then the difference can be chance. None where one half is not known.

    The rule for independent numbers. Those of images from the same noise move together, so that a smaller difference between
    them can be real, too: see `apart.Pairs` and `over_full`.
    """
    if a.half is None or b.half is None:
        return None
    return abs(a.value - b.value) <= math.hypot(a.half, b.half)


def alike(
    one: Mapping[str, Any], other: Mapping[str, Any], side: str, key: str, apart: Measured | None = None
) -> bool | None:
    """Whether the difference of two runs in a number can be chance; None where that is not known or one was not measured.

    apart: what `apart.Pairs` knows of it, which decides. Else, where both know how far above the same full-precision images
    their distance is, these differences: part of the noise that all three share has gone from them. Else two independent numbers.
    """
    if apart is not None:
        return inside_noise(apart, Measured(0.0, 0.0))
    if side == "quantized" and _twins(one) == _twins(other):
        above = measured(one, "over_fp", key), measured(other, "over_fp", key)
        if above[0] is not None and above[1] is not None:
            return inside_noise(above[0], above[1])
    a, b = measured(one, side, key), measured(other, side, key)
    return None if a is None or b is None else inside_noise(a, b)


def _twins(metrics: Mapping[str, Any]) -> list[str]:
    """The full-precision images that a run was compared with."""
    names = [f"sample_fp-{seeds}" for seeds in metrics.get("seeds", [])]
    return [metrics.get("artifacts", {}).get(name, "") for name in names]


def over_full(metrics: Mapping[str, Any], key: str) -> tuple[float, bool | None]:
    """How far a distance of the quantized network is above full precision's, and whether that is inside the noise.

    By the difference from the twin of the same noise where it is known, which tells much smaller differences; in cells from
    before it was kept, as two independent numbers. (0, None) where one was not measured.
    """
    if (difference := measured(metrics, "over_fp", key)) is not None:
        return difference.value, inside_noise(difference, Measured(0.0, 0.0))
    own, full = measured(metrics, "quantized", key), measured(metrics, "fp", key)
    return (0.0, None) if own is None or full is None else (own.value - full.value, inside_noise(own, full))


def _of_mean(deviation: float, count: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
