"""95 % intervals: where the expectation of a number of one set of images lies, for this many images.

What is estimated is what other seeds would scatter around, with the reference as it is. Each metric says in its own file
which of these it takes: standard errors by the influence of every image, means over images, or fractions of them.
"""

from __future__ import annotations

import math

from torch import Tensor

Interval = list[float]
"""[low, high]."""

_Z = 1.959963984540054  # the normal quantile of 0.975


def influence_interval(value: float, influence: Tensor) -> Interval:
    """+- 1.96 standard errors of a number around which the mean of `influence` (N,), N >= 2, scatters."""
    return around(value, standard_error(influence))


def mean_interval(values: Tensor) -> Interval:
    """The interval of the mean of a number that every image has: (N,), N >= 2."""
    each = values.double()
    return influence_interval(float(each.mean()), each)


def difference_interval(difference: float, influence: Tensor, other: Tensor) -> Interval:
    """The interval of the difference of two distances whose images, in this order, were made from the same noise."""
    return influence_interval(difference, influence.double() - other.double())


def fraction_interval(fraction: float, count: int) -> Interval:
    """Wilson's score interval (JASA 1927) of a fraction of `count` images; within [0, 1] and never empty."""
    centre = (fraction + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(fraction * (1 - fraction) / count + _Z**2 / (4 * count**2))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def quantile(freedom: int) -> float:
    """How many standard errors the 95 % t interval reaches to each side, at these degrees of freedom (>= 1)."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def standard_error(each: Tensor) -> float:
    """Standard error of the mean of (N,)."""
    return float(each.std()) / math.sqrt(len(each))


def around(value: float, error: float, times: float = _Z) -> Interval:
    """`times` standard errors to each side."""
    return [value - times * error, value + times * error]
