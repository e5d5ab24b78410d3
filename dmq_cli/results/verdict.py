"""Format measured numbers, their noise and differences."""

from __future__ import annotations

import math

from dmq_cli.metrics.metric import DOWN
from dmq_cli.metrics.shown import shown as shown_as
from dmq_cli.results.record import Number


def lower_is_better(key: str) -> bool:
    """Whether a smaller number is better, by the arrow of its metric."""
    return shown_as(key).arrow == DOWN


def verdict(inside: bool | None) -> str:
    """Write whether a difference is inside the noise: "inside the noise", "outside the noise" or "noise unknown"."""
    return "noise unknown" if inside is None else f"{'inside' if inside else 'outside'} the noise"


def with_noise(number: Number, key: str) -> str:
    """Format `0.53 ± 0.05`, with the deviation over seed ranges, or `0.53 [0.46, 0.60]`, with the 95 % interval of a single one.

    key: of the number, whose metric says how many decimals it has.
    """
    digits = shown_as(key).digits
    text = f"{number.value:.{digits}f}"
    if number.deviation is not None:
        return f"{text} ± {number.deviation:.{digits}f}"
    if number.interval is None:
        return text
    return f"{text} [{number.interval[0]:.{digits}f}, {number.interval[1]:.{digits}f}]"


def precise(number: Number) -> str:
    """Format six significant digits, and four of the 95 % interval where there is one: `0.518162 [0.4212, 0.6151]`."""
    ends = "" if number.interval is None else f" [{number.interval[0]:.4g}, {number.interval[1]:.4g}]"
    return f"{number.value:.6g}{ends}"


def spread(number: Number) -> str:
    """Format `± 0.05` or `[0.46, 0.60]`, as `with_noise`, with the decimals of `shown`; "" where the noise is not known."""
    if number.deviation is not None:
        return f"± {shown(number.deviation, number.value)}"
    if number.interval is None:
        return ""
    return f"[{', '.join(shown(end, number.value) for end in number.interval)}]"


def shown(value: float, like: float | None = None) -> str:
    """Format two decimals, or two digits of a small number: 21.62, 0.53, 0.0083. like: the number whose decimals to use."""
    return f"{value:.{_decimals(value if like is None else like)}f}"


def with_unit(number: Number) -> str:
    """Format `30.36 dB`, the number as `shown` with its unit."""
    return shown(number.value) + (f" {number.unit}" if number.unit else "")


def difference(first: float, second: float) -> str:
    """Format first - second as `+0.07`, with the decimals of the first number; `0.00` without a sign."""
    text = f"{first - second:+.{_decimals(first)}f}"
    return (text if float(text) else text[1:]).replace("-", "\u2212")


def _decimals(number: float) -> int:
    size = abs(number)
    return 2 if size >= 0.1 or size == 0 else 1 - math.floor(math.log10(size))
