"""Fréchet distance of the extractor's features to the reference's (Heusel et al., NeurIPS 2017, 1706.08500).

With Inception's features it is FID. Its interval comes from the influence function, and FD-inf extrapolates to infinitely many
images: see frechet.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from dmq_cli.metrics.frechet import FrechetTo
from dmq_cli.metrics.interval import influence_interval
from dmq_cli.metrics.metric import DOWN, Measurement, Sample, SetMetric, Shown
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Reference, frechet


class FrechetOn(SetMetric):
    """The Fréchet distance on the layer that a subclass names as `reference`."""

    reference: ClassVar[str]

    @property
    def least(self) -> int:
        """Two, for a covariance."""
        return 2

    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """The distance >= 0, in squared feature units."""
        value = frechet(images.features, reference, self.reference)
        features, target = images.features[self.reference].numpy(), FrechetTo(*reference.moments(self.reference))
        numbers = {self.name: value, **self.limits(target, features, protocol)}
        influence = torch.from_numpy(target.influence(features))
        intervals = {name: influence_interval(number, influence) for name, number in numbers.items()}
        return Measurement(numbers, intervals, {self.name: influence})

    def limits(self, target: FrechetTo, features: Any, protocol: Protocol) -> Mapping[str, float]:
        """Further numbers with the same standard error."""
        return {}


@dataclass(frozen=True)
class FrechetDistance(FrechetOn):
    """fd, and fd_inf where there are enough images for it."""

    name = "fd"
    results = (Shown("fd", "FD", DOWN, distance=True), Shown("fd_inf", "FD∞", DOWN))
    layers = ("features",)
    reference = "features"

    def limits(self, target: FrechetTo, features: Any, protocol: Protocol) -> Mapping[str, float]:
        """FD-inf."""
        limit = target.extrapolated(features, protocol.rng_seed)
        return {} if limit is None else {"fd_inf": limit}
