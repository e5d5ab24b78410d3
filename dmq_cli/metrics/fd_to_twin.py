"""Fréchet distance between the quantized images and those that full precision makes of the same noise.

On the features of the protocol's extractor, without real images: what quantization changed in the distribution. Images that
quantization moves as a pair move apart little, so that far smaller changes show than in the difference of two distances to a
reference. Both sets scatter, together: the interval is by the influence of every pair, see frechet.py.
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
        """In float64."""
        ours, theirs = (sample.features["features"].double().numpy() for sample in (images, twin))
        distance = max(0.0, FrechetTo(*moments(theirs)).distance(ours))  # rounding may leave it below
        influence = torch.from_numpy(paired_influence(ours, theirs))
        return Measurement(
            {self.name: distance}, {self.name: influence_interval(distance, influence)}, {self.name: influence}
        )
