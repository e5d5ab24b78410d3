"""95 % intervals for the expectation of a number of one set of images, for this many images.

The expectation is over seeds, with the reference fixed. Each metric says in its own file which interval it uses: by standard
errors from the influence of every image, for means over images, or for fractions of them.
"""

from __future__ import annotations

import math

from torch import Tensor

Interval = list[float]
"""[low, high]."""

_Z = 1.959963984540054  # the normal quantile of 0.975
_MANY = 200  # images from which on Student's t is within 1 % of it


def influence_interval(value: float, influence: Tensor) -> Interval:
    """The interval value +- 1.96 standard errors of the mean of `influence`, (N,), N >= 2."""
    return around(value, standard_error(influence))


def mean_interval(values: Tensor) -> Interval:
    """The interval of a mean over images, of fewer than `_MANY` by Student's t. values: (N,), N >= 2."""
    doubles = values.double()
    times = _Z if len(doubles) >= _MANY else quantile(len(doubles) - 1)
    return around(float(doubles.mean()), standard_error(doubles), times)


def difference_interval(difference: float, influence: Tensor, other_influence: Tensor) -> Interval:
    """The interval of the difference of two distances. influence, other_influence: (N,) of images from the same noise, in order."""
    return influence_interval(difference, influence.double() - other_influence.double())


def fraction_interval(fraction: float, count: int) -> Interval:
    """Wilson's score interval (JASA 1927) of a fraction of `count` images, within [0, 1]."""
    centre = (fraction + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(fraction * (1 - fraction) / count + _Z**2 / (4 * count**2))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def quantile(freedom: int) -> float:
    """Half the width of the 95 % t interval in standard errors, at these degrees of freedom (>= 1)."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of (N,)."""
    return float(values.std()) / math.sqrt(len(values))


def around(value: float, error: float, times: float = _Z) -> Interval:
    """The interval of `times` standard errors to each side of a value."""
    return [value - times * error, value + times * error]
