"""How a measured number, its noise and a difference are put into words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmq_cli.metrics.metric import DOWN, TwinMetric
from dmq_cli.metrics.shown import classes, results

LOWER_IS_BETTER = {key for key, how in results().items() if how.arrow == DOWN}
_OF_TWINS = [metric for metric in classes().values() if issubclass(metric, TwinMetric)]
NAMES = {how.key: how.heading for metric in _OF_TWINS for how in metric.results}
UNITS = {key: how.unit for key, how in results().items()}


def verdict(inside: bool | None) -> str:
    """Whether a difference is inside the noise, in words: "inside the noise", "outside the noise" or "noise unknown"."""
    return "noise unknown" if inside is None else f"{'inside' if inside else 'outside'} the noise"


def spread(metrics: Mapping[str, Any], side: str, key: str) -> str:
    """`± 0.05`, the deviation over several seed ranges, or `[0.46, 0.60]`, the 95 % interval of a single one, or nothing."""
    numbers = metrics[side]
    if several := numbers.get(f"{key}_over_seeds"):
        return f"± {shown(several['std'], numbers[key])}"
    ends = metrics.get("intervals", {}).get(side, {}).get(key)
    return f"[{', '.join(shown(end, numbers[key]) for end in ends)}]" if ends else ""


def shown(number: float, like: float | None = None) -> str:
    """Two decimals, or two digits of what is small: 21.62, 0.53, 0.0083. like: the number whose decimals to use."""
    return f"{number:.{_decimals(number if like is None else like)}f}"


def difference(one: float, other: float) -> str:
    """`+0.07`, with the decimals of the first number; `0.00` without a sign."""
    text = f"{one - other:+.{_decimals(one)}f}"
    return (text if float(text) else text[1:]).replace("-", "\u2212")


def _decimals(number: float) -> int:
    size = abs(number)
    return 2 if size >= 0.1 or size == 0 else 1 - math.floor(math.log10(size))
