"""The interface of a metric: an object of a protocol that measures images and says how its numbers are shown.

A metric is one file here and one in conf/metric: a subclass of SetMetric, of TwinMetric or of PairMetric (pairs.py). Beside each
number it may give an interval, and the influence of every image, from which the interval of a difference between two sets from the
same noise is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.metrics.interval import Interval
from dmq_cli.metrics.weights import FOLDERS, find_folder, settings_sha256

if TYPE_CHECKING:
    from dmq_cli.metrics.protocol import Protocol
    from dmq_cli.metrics.references.reference import Reference

DOWN, UP = "↓", "↑"


@dataclass(frozen=True)
class Shown:
    """A number and how it is shown. key: in metrics.json; heading: of its column; arrow: direction of better, DOWN, UP or "" for
    neither; unit: written after it; digits: decimals, where a fixed number of them is shown.

    distance: tables mark it where its difference to full precision is inside the noise.
    """

    key: str
    heading: str
    arrow: str = ""
    unit: str = ""
    digits: int = 2
    distance: bool = False


@dataclass(frozen=True)
class Measurement:
    """The result of a metric, by the names of its numbers; empty for images that have no such number.

    intervals: [low, high], 95 %. influences: (N,), first-order contribution of every image to the number.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    influences: Mapping[str, Tensor] = field(default_factory=dict)

    def __or__(self, other: Measurement) -> Measurement:
        return Measurement(
            {**self.numbers, **other.numbers},
            {**self.intervals, **other.intervals},
            {**self.influences, **other.influences},
        )


@dataclass(frozen=True, eq=False)
class Sample:
    """A set of images as metrics read it.

    features: layer -> (N, ...) float32, see `extract`; asked: the class or prompt of each image, None for unconditional ones;
    pixels: uint8 (N, H, W, 1 or 3), where images are compared with their twins.
    """

    features: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Sequence[str] | None = None
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | Tensor | None = None


class Metric(ABC):
    """One metric of a protocol; its parameters are what a protocol may set.

    name: its key in protocol.metrics. results: its numbers, and how each is shown. layers: the features of `extract` that it reads.
    extractors: the only ones that have these, empty for any. weights: a network of weights.py that it needs besides the
    extractor. asks: whether it needs the class or prompt of each image.
    """

    name: ClassVar[str]
    results: ClassVar[tuple[Shown, ...]]
    layers: ClassVar[tuple[str, ...]] = ()
    extractors: ClassVar[tuple[str, ...]] = ()
    weights: ClassVar[str | None] = None
    asks: ClassVar[bool] = False

    def check(self, protocol: Protocol) -> None:
        """Raise ConfigError where the protocol lacks what it needs, or a parameter is impossible."""
        if self.extractors and protocol.extractor not in self.extractors:
            raise ConfigError(
                f"Protocol {protocol.name} asks for {self.name}, which only {' and '.join(self.extractors)} has; take it away"
                f" with protocol.metrics.{self.name}=null."
            )
        if self.layers and self.weights is None and protocol.extractor is None:
            raise ConfigError(
                f"Protocol {protocol.name} asks for {self.name}, which reads features, but has no extractor; give"
                f" protocol.extractor, or take it away with protocol.metrics.{self.name}=null."
            )

    def files(self, protocol: Protocol) -> dict[str, str]:
        """Hash every file besides the extractor's that its numbers depend on. Raises as `read_weights`."""
        if self.weights not in FOLDERS:
            return {}
        expected = protocol.weights_sha256.get(self.weights)
        folder, sha256 = find_folder(self.weights, protocol.folders()[self.weights], expected)
        return {self.weights: sha256, f"{self.weights}_files": settings_sha256(folder)}


class SetMetric(Metric):
    """A number of a set of images.

    reference: the layer that it compares with real images, None where it reads the sampled images alone. whole: whether it needs
    the features of every real image, not only their mean and covariance.
    """

    reference: ClassVar[str | None] = None
    whole: ClassVar[bool] = False

    def check(self, protocol: Protocol) -> None:
        """See Metric; also where the protocol lacks the real images that it compares with."""
        super().check(protocol)
        if self.reference is not None and protocol.reference is None:
            raise ConfigError(
                f"Protocol {protocol.name} asks for {self.name}, which compares with real images, but has no reference; give"
                f" protocol.reference, or take it away with protocol.metrics.{self.name}=null."
            )

    @property
    def least(self) -> int:
        """The number of real images it needs."""
        return 1

    @abstractmethod
    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Measure images. Raises EvaluationError for a reference that lacks what it needs."""


class TwinMetric(Metric):
    """A number of a set of images and the full-precision images from the same noise, in the same order."""

    @abstractmethod
    def compare(self, images: Sample, twin: Sample, protocol: Protocol) -> Measurement:
        """Compare images with their twins. Raises EvaluationError for sets that are not pairs."""


def check_least(protocol: Protocol, key: str, value: int | None, least: int) -> None:
    """Raise ConfigError for a count of a protocol below `least`. key: below `protocol.`; None is allowed."""
    if value is not None and value < least:
        raise ConfigError(f"Protocol {protocol.name} asks for {key}={value}; give at least {least}.")


def check_most(protocol: Protocol, key: str, value: int, spare: int = 0) -> None:
    """Raise ConfigError for a count that, with `spare` more, is above the number of images."""
    if value + spare > protocol.num_images:
        raise ConfigError(
            f"Protocol {protocol.name} asks for {key}={value} with num_images={protocol.num_images}; give at most"
            f" {protocol.num_images - spare}."
        )
