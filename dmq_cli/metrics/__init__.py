"""Metrics of images. A metric is one file here and one in conf/metric, see metric.py; a protocol lists them."""

from dmq_cli.metrics.extractors import Images, extract, extractor_sha256, further_sha256
from dmq_cli.metrics.fidelity import (
    compare,
    fidelity,
    images_sha256,
    measure,
    reference_features,
    reference_of,
    with_features,
)
from dmq_cli.metrics.flat import flat
from dmq_cli.metrics.interval import difference_interval, fraction_interval, influence_interval, mean_interval
from dmq_cli.metrics.metric import DOWN, UP, Measurement, Metric, Sample, SetMetric, Shown, TwinMetric
from dmq_cli.metrics.pairs import PairMetric, Pairwise
from dmq_cli.metrics.protocol import EXTRACTORS, Protocol, to_uint8
from dmq_cli.metrics.references.reference import Reference
from dmq_cli.metrics.shown import shown
from dmq_cli.metrics.weights import INCEPTION_SHA256, INCEPTION_URL

__all__ = [
    "DOWN",
    "EXTRACTORS",
    "INCEPTION_SHA256",
    "INCEPTION_URL",
    "UP",
    "Images",
    "Measurement",
    "Metric",
    "PairMetric",
    "Pairwise",
    "Protocol",
    "Reference",
    "Sample",
    "SetMetric",
    "Shown",
    "TwinMetric",
    "compare",
    "difference_interval",
    "extract",
    "extractor_sha256",
    "fidelity",
    "flat",
    "fraction_interval",
    "further_sha256",
    "images_sha256",
    "influence_interval",
    "mean_interval",
    "measure",
    "reference_features",
    "reference_of",
    "shown",
    "to_uint8",
    "with_features",
]
