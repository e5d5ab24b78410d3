"""What a metric is: an object of a protocol that measures images and says how its numbers are shown.

A metric is one file here and one in conf/metric: a subclass of SetMetric, of TwinMetric or of PairMetric (pairs.py). What it
gives beside each number says how far that scatters: an interval, and the influence of every image, from which the interval of
a difference between two sets of the same noise comes.
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
    """A number and how it is shown. key: in metrics.json; heading: of its column; arrow: where better is, DOWN, UP or "" for neither; unit: put after it;
    digits: after the point, where the same number of them is shown everywhere.

    distance: tables say where it is no further from full precision's than noise is.
    """

    key: str
    heading: str
    arrow: str = ""
    unit: str = ""
    digits: int = 2
    distance: bool = False


@dataclass(frozen=True)
class Measurement:
    """What a metric found, by the names of its numbers; nothing where these images have no such number.

    intervals: [low, high], 95 %. influences: (N,), what every image adds to the number to first order.
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

    features: layer -> (N, ...) float32, see `extract`; asked: what each image was to show, None where nothing was asked;
    pixels: uint8 (N, H, W, 1 or 3), where images are compared with their twins.
    """

    features: Mapping[str, Tensor] = field(default_factory=dict)
    asked: Sequence[str] | None = None
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | Tensor | None = None


class Metric(ABC):
    """One metric of a protocol; its parameters are what a protocol may set.

    name: its key in protocol.metrics. results: its numbers, and how each is shown. layers: the features it
    reads, of `extract`. extractors: the only ones that give them, empty for any. weights: a network of weights.py that it
    reads besides the extractor. asks: it needs to know what each image was to show.
    """

    name: ClassVar[str]
    results: ClassVar[tuple[Shown, ...]]
    layers: ClassVar[tuple[str, ...]] = ()
    extractors: ClassVar[tuple[str, ...]] = ()
    weights: ClassVar[str | None] = None
    asks: ClassVar[bool] = False

    def check(self, protocol: Protocol) -> None:
        """Raise ConfigError where the protocol cannot give what it needs, or a parameter cannot be."""
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
        """The sha256 of every file besides the extractor's that its numbers come from. Raises errors as in `read_weights`."""
        if self.weights not in FOLDERS:
            return {}
        wanted = protocol.weights_sha256.get(self.weights)
        folder, sha256 = find_folder(self.weights, protocol.folders()[self.weights], wanted)
        return {self.weights: sha256, f"{self.weights}_files": settings_sha256(folder)}


class SetMetric(Metric):
    """A number of a set of images.

    reference: the layer that it compares with real images, None where it reads the sampled images alone. whole: it compares
    them one by one, so that mean and covariance of the real ones are not enough.
    """

    reference: ClassVar[str | None] = None
    whole: ClassVar[bool] = False

    def check(self, protocol: Protocol) -> None:
        """See Metric; also for a protocol without the real images that it compares with."""
        super().check(protocol)
        if self.reference is not None and protocol.reference is None:
            raise ConfigError(
                f"Protocol {protocol.name} asks for {self.name}, which compares with real images, but has no reference; give"
                f" protocol.reference, or take it away with protocol.metrics.{self.name}=null."
            )

    @property
    def least(self) -> int:
        """How many real images it needs."""
        return 1

    @abstractmethod
    def measure(self, images: Sample, reference: Reference, protocol: Protocol) -> Measurement:
        """Its numbers. Raises EvaluationError for a reference that does not serve it."""


class TwinMetric(Metric):
    """A number of a set of images and of those that full precision makes of the same noise, in the same order."""

    @abstractmethod
    def compare(self, images: Sample, twin: Sample, protocol: Protocol) -> Measurement:
        """Its numbers. Raises EvaluationError for sets that are no pairs."""


def check_least(protocol: Protocol, key: str, value: int | None, least: int) -> None:
    """Raise ConfigError for a count of a protocol below `least`. key: below `protocol.`; None is no count."""
    if value is not None and value < least:
        raise ConfigError(f"Protocol {protocol.name} asks for {key}={value}; give at least {least}.")


def check_most(protocol: Protocol, key: str, value: int, spare: int = 0) -> None:
    """Raise ConfigError for a count that, with `spare` more, is above the number of images."""
    if value + spare > protocol.num_images:
        raise ConfigError(
            f"Protocol {protocol.name} asks for {key}={value} with num_images={protocol.num_images}; give at most"
            f" {protocol.num_images - spare}."
        )
