"""Inception score (Salimans et al., NeurIPS 2016, 1606.03498), by torch-fidelity, of the extractor's classes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dmq_cli.metrics.interval import around, quantile
from dmq_cli.metrics.metric import UP, Measurement, Sample, SetMetric, Shown, check_least, check_most
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference


@dataclass(frozen=True)
class InceptionScore(SetMetric):
    """is in [1, classes], the mean over disjoint splits of the shuffled images, and is_std over the splits.

    splits: their number. They are disjoint, so that their mean has a t interval with splits - 1 degrees of freedom.
    """

    name = "is"
    results = (Shown("is", "IS", UP), Shown("is_std", "IS over splits"))
    layers = ("logits",)

    splits: int = 10

    def check(self, protocol: Protocol) -> None:
        """See Metric: at least one split, and an image in each."""
        super().check(protocol)
        check_least(protocol, "metrics.is.splits", self.splits, 1)
        check_most(protocol, "metrics.is.splits", self.splits)

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Reads the images alone."""
        from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

        logits = images.features["logits"]
        scores = isc_features_to_metric(logits, self.splits, shuffle=True, rng_seed=protocol.rng_seed)
        numbers = {"is": scores[KEY_METRIC_ISC_MEAN], "is_std": scores[KEY_METRIC_ISC_STD]}
        if self.splits == 1:
            return Measurement(numbers)
        freedom = self.splits - 1  # is_std divides by splits
        interval = around(numbers["is"], numbers["is_std"] / math.sqrt(freedom), quantile(freedom))
        return Measurement(numbers, {"is": interval})
