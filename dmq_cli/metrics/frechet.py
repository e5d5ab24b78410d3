"""The standard error of the Fréchet distance of N images, and its limit for infinitely many.

FD of N images is greater than FD of the distribution they come from, by about c / N, and a bootstrap adds that bias once
more: its percentiles lie above the distance itself. The standard error here is of first order instead, by the influence function:
with the optimal map T = S_r^1/2 (S_r^1/2 S S_r^1/2)^-1/2 S_r^1/2 from the images' Gaussian to the reference's,

    FD(images) - E[FD(N images)] ~ mean of a_i,   a_i = 2 (mu - mu_r)'(x_i - mu) + (x_i - mu)'(I - T)(x_i - mu) - const,

so std(a_i) / sqrt(N) is its standard error, from one decomposition. Delete-d jackknives of 20 and 50 groups have the same coverage
and need 20 and 50 decompositions. Like the jackknife's, it is too wide where the two distributions are almost equal, by sqrt(2)
where they are equal: there FD varies in second order alone, and the interval covers more often than 95 %.

For two sets of images from the same noise, a_i - b_i gives the standard error of the difference of their distances, which is much
smaller than for two independent sets.

The distance between two such sets, as of quantized images and their twins, varies with both. A pair's influence is that of its
image with the other set fixed, plus that of its twin with the images fixed; the two sets are correlated, so that pairs are
the independent units, not images.

FD-inf: Chong and Forsyth, CVPR 2020 (1911.07023), fit FD over 1 / N for random subsets and read off the intercept.
Deviation: the subsets of one size are disjoint and together all images, so that the sampling error of these images is the same
in the mean of every size and moves the intercept as it moves FD: FD-inf has the standard error of FD.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_MOST_PARTS = 5
_LEAST_PER_FEATURE = 4  # images in a part for every feature: with fewer, FD is no longer a line in 1 / N
_ROWS = 8192  # of features in float64 at a time
_WHOLE = 16384  # rows that numpy may copy three times
_ZERO = 1e-12  # of the greatest eigenvalue


class FrechetTo:
    """Fréchet distance to one fixed Gaussian, the reference.

    mean: (D,); covariance: (D, D), divided by n - 1. All in float64.
    """

    def __init__(self, mean: Any, covariance: Any) -> None:
        self.mean, covariance = np.asarray(mean, np.float64), np.atleast_2d(np.asarray(covariance, np.float64))
        values, vectors = np.linalg.eigh(covariance)
        self.root: Array = (vectors * np.sqrt(values.clip(0))) @ vectors.T
        self.trace = float(np.trace(covariance))

    def distance(self, features: Any) -> float:
        """FD of features (N, D)."""
        mean, covariance = moments(features)
        roots = np.sqrt(np.linalg.eigvalsh(self.root @ covariance @ self.root).clip(0)).sum()
        return float(np.square(mean - self.mean).sum() + np.trace(covariance) + self.trace - 2 * roots)

    def influence(self, features: Any) -> Array:
        """a_i of every image, (N,), from features (N, D): to first order FD minus its expectation is their mean."""
        mean, covariance = moments(features)
        values, vectors = np.linalg.eigh(self.root @ covariance @ self.root)
        nonzero = values > values[-1] * _ZERO  # features that never vary have no part in it
        half = self.root @ (vectors[:, nonzero] / values[nonzero] ** 0.25)
        bent = np.eye(len(mean)) - half @ half.T
        pieces = []
        for start in range(0, len(features), _ROWS):
            rows = np.asarray(features[start : start + _ROWS], np.float64) - mean
            pieces.append(2 * rows @ (mean - self.mean) + ((rows @ bent) * rows).sum(axis=1))
        per_image: Array = np.concatenate(pieces)
        per_image -= per_image.mean()
        return per_image

    def extrapolated(self, features: Any, seed: int) -> float | None:
        """FD-inf of features (N, D), from FD of the whole set, its halves, thirds, fourths and fifths; `seed` draws them.

        Only parts of at least 4 D images count; None where not even halves are (N < 8 D).
        """
        features = np.asarray(features)
        order = np.random.default_rng(seed).permutation(len(features))
        parts = range(1, min(_MOST_PARTS, len(features) // (_LEAST_PER_FEATURE * features.shape[1])) + 1)
        if len(parts) < 2:
            return None
        means = [np.mean([self.distance(features[rows]) for rows in np.array_split(order, k)]) for k in parts]
        return float(np.polynomial.polynomial.polyfit(parts, means, 1)[0])


def paired_influence(features: Any, twins: Any) -> Array:
    """a_i of every pair, (N,), from features (N, D) of two sets from the same noise; see `FrechetTo.influence`."""
    influence: Array = FrechetTo(*moments(twins)).influence(features) + FrechetTo(*moments(features)).influence(twins)
    return influence


def moments(features: Any) -> tuple[Array, Array]:
    """Mean (D,) and covariance (D, D), divided by N - 1, of features (N, D), in float64, of which only some rows are in memory."""
    if len(features) <= _WHOLE:
        whole = np.asarray(features, np.float64)
        return whole.mean(axis=0), np.atleast_2d(np.cov(whole, rowvar=False))
    pieces = [features[start : start + _ROWS] for start in range(0, len(features), _ROWS)]
    mean: Array = np.sum([np.sum(rows, axis=0, dtype=np.float64) for rows in pieces], axis=0) / len(features)
    covariance: Array = np.zeros((len(mean), len(mean)))
    for piece in pieces:
        rows = np.asarray(piece, np.float64) - mean
        covariance += rows.T @ rows
    return mean, covariance / (len(features) - 1)
