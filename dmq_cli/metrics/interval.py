"""95 % intervals of the numbers of one set of images: where their expectation lies, for this many images.

What is estimated is what other seeds would scatter around, with the reference as it is. Each number has its own way:

* fd, fd_inf, sfid, fd_dinov2: +- 1.96 standard errors by the influence function (frechet.py).
* kid: torch-fidelity's mean over random subsets, which overlap: their spread alone says nothing about other images. Its
  variance is that of the unbiased MMD^2 of all images (first term of Hoeffding's decomposition of this U-statistic, Gretton
  et al., JMLR 2012; a jackknife in closed form) plus the spread over subsets by their number, for the choice of subsets.
* is: the splits are disjoint, so their mean has a t interval with splits - 1 degrees of freedom.
* precision, agreement: fractions of images that are, or are not, what they should be: Wilson's interval (JASA 1927).
* means over images (clip_score, PSNR and the like): mean +- 1.96 standard errors.

Recall has none: it counts reference images, which all images together decide on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from scipy.special import stdtrit
from torch import Tensor

from dmq_cli.metrics.frechet import FrechetTo
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference

Interval = list[float]
"""[low, high]."""

_Z = 1.959963984540054  # the normal quantile of 0.975
_DISTANCES = {"fd": "features", "sfid": "spatial", "fd_dinov2": "dinov2"}
_FRACTIONS = ("precision", "agreement")
_ROWS = 2048  # of a kernel matrix at a time


def judged(
    numbers: Mapping[str, float], features: Mapping[str, Tensor], reference: Reference, protocol: Protocol
) -> tuple[dict[str, dict[str, Any]], dict[str, Tensor]]:
    """{"numbers": numbers and fd_inf, "intervals": a [low, high] for those that have one}; and the influence of every image
    on each distance, (N,), for `difference_interval`.

    numbers: what `measure` found for these features (N, D) and this reference.
    """
    within: dict[str, Interval] = {}
    limits: dict[str, float] = {}
    influences: dict[str, Tensor] = {}
    for name, layer in _DISTANCES.items():
        if name in numbers:
            ours, target = features[layer].numpy(), FrechetTo(*reference.moments(layer))
            influences[name] = torch.from_numpy(target.influence(ours))
            error = _error(influences[name])
            within[name] = _around(numbers[name], error)
            limit = target.extrapolated(ours, protocol.rng_seed) if name == "fd" else None
            if limit is not None:
                limits["fd_inf"], within["fd_inf"] = limit, _around(limit, error)
    if "kid" in numbers and protocol.kid_subsets > 1:
        own = kid_variance(features["features"], reference["features"])
        choice = numbers["kid_std"] ** 2 / (protocol.kid_subsets - 1)
        within["kid"] = _around(numbers["kid"], math.sqrt(own + choice))
    if "is" in numbers and protocol.splits > 1:
        freedom = protocol.splits - 1  # is_std divides by splits
        within["is"] = _around(numbers["is"], numbers["is_std"] / math.sqrt(freedom), quantile(freedom))
    within |= {n: fraction_interval(numbers[n], len(features["features"])) for n in _FRACTIONS if n in numbers}
    if "clip_score" in numbers:
        within["clip_score"] = mean_interval(features["clip_score"])
    return {"numbers": {**numbers, **limits}, "intervals": within}, influences


def mean_interval(values: Tensor) -> Interval:
    """The interval of the mean of a number that every image has: (N,), N >= 2."""
    each = values.double()
    return _around(float(each.mean()), _error(each))


def difference_interval(difference: float, influence: Tensor, other: Tensor) -> Interval:
    """The interval of the difference of two distances whose images, in this order, were made from the same noise."""
    return _around(difference, _error(influence.double() - other.double()))


def quantile(freedom: int) -> float:
    """How many standard errors the 95 % t interval reaches to each side, at these degrees of freedom (>= 1)."""
    return float(stdtrit(freedom, 0.975))


def fraction_interval(fraction: float, count: int) -> Interval:
    """Wilson's score interval of a fraction of `count` images; within [0, 1] and never empty."""
    centre = (fraction + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(fraction * (1 - fraction) / count + _Z**2 / (4 * count**2))
    return [max(0.0, centre - half), min(1.0, centre + half)]


def kid_variance(features: Tensor, reference: Tensor) -> float:
    """Variance of the unbiased MMD^2 of features (N, D) to a fixed reference (M, D), by the kernel (x'y / D + 1)^3.

    4 Var(h_i) / N with h_i = mean of k(x_i, x_j) over the other images - mean of k(x_i, y_j). float64; time N (N + M) D.
    """
    ours, theirs = features.double(), reference.double()
    rows = []
    for x in torch.split(ours, _ROWS):
        to_others = _kernel(x, ours).sum(1) - ((x * x).sum(1) / x.shape[1] + 1) ** 3
        rows.append(to_others / (len(ours) - 1) - _kernel(x, theirs).mean(1))
    return 4 * float(torch.cat(rows).var()) / len(ours)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _error(each: Tensor) -> float:
    """Standard error of a mean."""
    return float(each.std()) / math.sqrt(len(each))


def _around(value: float, error: float, times: float = _Z) -> Interval:
    return [value - times * error, value + times * error]
