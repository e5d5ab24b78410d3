"""Improved precision and recall (Kynkäänniemi et al., NeurIPS 2019, 1904.06991), by torch-fidelity.

Precision is a fraction of images and has Wilson's interval. Recall has none: it is a fraction of reference images, each decided by
all images together.
"""

from __future__ import annotations

from dataclasses import dataclass

from dmq_cli.metrics.interval import fraction_interval
from dmq_cli.metrics.metric import UP, Measurement, Sample, SetMetric, Shown, check_least, check_most
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference

_LARGE = 10_000  # images; all distances among 50,000 would be 10 GB
_VERY_LARGE, _FEW = 16_384, 1000  # from so many on, the distances of so many images at a time


@dataclass(frozen=True)
class PrecisionRecall(SetMetric):
    """precision and recall in [0, 1].

    neighbourhood: k of the balls around each image. images: number of reference images to compare with, the first ones; None:
    all.
    """

    name = "prc"
    results = (Shown("precision", "precision", UP), Shown("recall", "recall", UP))
    layers = ("features",)
    reference = "features"
    whole = True

    neighbourhood: int = 3
    images: int | None = None

    @property
    def least(self) -> int:
        """The number of images to compare with, and at least enough for one ball."""
        return self.images or self.neighbourhood + 1

    def check(self, protocol: Protocol) -> None:
        """See Metric: more images than neighbours."""
        super().check(protocol)
        check_least(protocol, "metrics.prc.neighbourhood", self.neighbourhood, 1)
        check_least(protocol, "metrics.prc.images", self.images, self.neighbourhood + 1)
        check_most(protocol, "metrics.prc.neighbourhood", self.neighbourhood, spare=1)

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Compares every image with every real one."""
        from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

        # float32, as in torch-fidelity: precision can tip over whether a sample lies inside a ball
        features, real = images.features["features"], reference["features"][: self.images]
        large = max(len(features), len(real)) > _LARGE
        batch = _FEW if max(len(features), len(real)) > _VERY_LARGE else _LARGE
        scores = prc_features_to_metric(
            features, real, verbose=False, prc_neighborhood=self.neighbourhood, save_cpu_ram=large, prc_batch_size=batch
        )
        precision, recall = scores[KEY_METRIC_PRECISION], scores[KEY_METRIC_RECALL]
        interval = fraction_interval(precision, len(features))
        return Measurement({"precision": precision, "recall": recall}, {"precision": interval})
