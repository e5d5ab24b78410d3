"""KID (Bińkowski et al., ICLR 2018, 1801.01401): MMD^2 with a cubic kernel on the extractor's features, by torch-fidelity.

The mean over random subsets, which overlap, so that their variance does not estimate that over images. The variance of the
interval is that of the unbiased MMD^2 of all images (first term of Hoeffding's decomposition of this U-statistic, Gretton et al.,
JMLR 2012; a jackknife in closed form) plus the variance over subsets divided by their number, for the choice of subsets.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.metrics.interval import around
from dmq_cli.metrics.metric import DOWN, Measurement, Sample, SetMetric, Shown, check_least, check_most
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference

_ROWS = 2048  # of a kernel matrix at a time
_LARGE, _FEW = 16_384, 256  # from so many images on, so many rows


@dataclass(frozen=True)
class Kid(SetMetric):
    """kid, around 0 for equal distributions, and kid_std over the subsets, in float64.

    subset_size: images in a subset; subsets: number of subsets.
    """

    name = "kid"
    results = (Shown("kid", "KID", DOWN, digits=4), Shown("kid_std", "KID over subsets", digits=4))
    layers = ("features",)
    reference = "features"
    whole = True

    subset_size: int = 1000
    subsets: int = 100

    @property
    def least(self) -> int:
        """A subset."""
        return self.subset_size

    def check(self, protocol: Protocol) -> None:
        """See Metric: subsets of at least two images, and no more than there are."""
        super().check(protocol)
        check_least(protocol, "metrics.kid.subset_size", self.subset_size, 2)
        check_least(protocol, "metrics.kid.subsets", self.subsets, 1)
        check_most(protocol, "metrics.kid.subset_size", self.subset_size)

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Compares every image with every real one."""
        from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

        features, real = images.features["features"], reference["features"]
        options = {"kid_subsets": self.subsets, "kid_subset_size": self.subset_size, "rng_seed": protocol.rng_seed}
        scores = kid_features_to_metric(features.double(), real.double(), verbose=False, **options)
        numbers = {"kid": scores[KEY_METRIC_KID_MEAN], "kid_std": scores[KEY_METRIC_KID_STD]}
        if self.subsets == 1:
            return Measurement(numbers)
        choice = numbers["kid_std"] ** 2 / (self.subsets - 1)
        return Measurement(numbers, {"kid": around(numbers["kid"], math.sqrt(kid_variance(features, real) + choice))})


def kid_variance(features: Tensor, reference: Tensor) -> float:
    """Variance of the unbiased MMD^2 of features (N, D) to a fixed reference (M, D), by the kernel (x'y / D + 1)^3.

    4 Var(h_i) / N with h_i = mean of k(x_i, x_j) over the other images - mean of k(x_i, y_j). float64; time N (N + M) D.
    """
    images, real = features.double(), reference.double()
    rows = []
    size = _FEW if max(len(images), len(real)) > _LARGE else _ROWS
    for x in torch.split(images, size):
        to_others = _kernel(x, images).sum(1) - ((x * x).sum(1) / x.shape[1] + 1) ** 3
        rows.append(to_others / (len(images) - 1) - _kernel(x, real).mean(1))
    return 4 * float(torch.cat(rows).var()) / len(images)


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3
