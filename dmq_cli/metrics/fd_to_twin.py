"""Fréchet distance between the quantized and the full-precision images from the same noise.

On the features of the protocol's extractor, without real images: it measures what quantization changed in the distribution. The
two images of a pair are similar, so that far smaller changes show than in the difference of two distances to a reference. Both sets
are random and correlated, so the interval comes from the influence of every pair, see frechet.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dmq_cli.metrics.frechet import FrechetTo, moments, paired_influence
from dmq_cli.metrics.interval import influence_interval
from dmq_cli.metrics.metric import DOWN, Measurement, Sample, Shown, TwinMetric
from dmq_cli.metrics.protocol import Protocol


@dataclass(frozen=True)
class FrechetDistanceToTwin(TwinMetric):
    """fd_to_twin >= 0, in squared feature units; 0 for two equal sets."""

    name = "fd_to_twin"
    results = (Shown("fd_to_twin", "FD to FP", DOWN),)
    layers = ("features",)

    def compare(self, images: Sample, twin: Sample, protocol: Protocol) -> Measurement:
        """Compares the features in float64."""
        features, twin_features = (sample.features["features"].double().numpy() for sample in (images, twin))
        distance = max(0.0, FrechetTo(*moments(twin_features)).distance(features))  # rounding may leave it below
        influence = torch.from_numpy(paired_influence(features, twin_features))
        return Measurement(
            {self.name: distance}, {self.name: influence_interval(distance, influence)}, {self.name: influence}
        )
