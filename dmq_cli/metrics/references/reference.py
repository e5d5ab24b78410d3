"""The reference that images are compared with: features of real images, or stored mean and covariance of them.

Fréchet distance from stored statistics is torch-fidelity's `fid_statistics_to_metric` in float64 (Heusel et al., NeurIPS
2017, 1706.08500). Where a file has both statistics and images, as ADM's reference batches have, the distance is computed from the
statistics, which are of the whole data set, and only precision, recall and KID from the images, 10,000 of it
(openai/guided-diffusion, evaluations/evaluator.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.extractors import Images, extractor_sha256, further_sha256
from dmq_cli.metrics.frechet import moments
from dmq_cli.metrics.metric import SetMetric
from dmq_cli.metrics.protocol import Protocol

Features = Mapping[str, Tensor]
Array = NDArray[np.float64]
SIZES = {
    ("digits_cnn", "features"): 64,
    ("fashion_cnn", "features"): 64,
    ("inception-v3-compat", "features"): 2048,
    ("inception-v3-compat", "spatial"): 2023,
}
"""Number of features of an extractor's layer; DINOv2's depends on its folder."""


class Statistics(NamedTuple):
    """Mean (D,) and covariance (D, D) of the features of a set of images, float64; of n images divided by n - 1."""

    mu: Array
    sigma: Array


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images that a protocol compares with.

    name: in the protocol. sha256: 64 hexadecimal digits that identify the contents. statistics: layer -> Statistics as stored;
    features: layer -> (n, D) float32; images: reads them, uint8 (N, H, W, C). At least one of the three is there. record: where it
    comes from, plain values.
    """

    name: str
    sha256: str
    statistics: Mapping[str, Statistics] = field(default_factory=dict)
    features: Mapping[str, Tensor] = field(default_factory=dict)
    images: Callable[[], Images] | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, layer: str) -> Tensor:
        """The features of a layer, (n, D) float32. Raises EvaluationError where there are only statistics."""
        if layer not in self.features:
            raise EvaluationError(
                f"The reference {self.name} was asked for the features '{layer}' of every image, but has "
                f"{self._holdings()}; take the metrics that read them away, with protocol.metrics.NAME=null."
            )
        return self.features[layer]

    def moments(self, layer: str) -> Statistics:
        """Mean and covariance of a layer: the stored ones, otherwise those of its features. Raises EvaluationError."""
        return self.statistics[layer] if layer in self.statistics else statistics_of(self[layer])

    def lacks(self, protocol: Protocol) -> list[str]:
        """The names of the protocol's metrics that need the images, as statistics and features are not enough for them."""
        return [metric.name for metric in comparing(protocol) if not self._serves(metric)]

    def check(self, protocol: Protocol) -> None:
        """Raise EvaluationError if it lacks what the protocol needs, is not the one of `reference_sha256`, or was built with other
        weights."""
        if protocol.reference_sha256 is not None and protocol.reference_sha256.lower() != self.sha256:
            raise EvaluationError(
                f"The protocol {protocol.name} asks for a reference with the sha256 {protocol.reference_sha256}, but "
                f"{self.name} has {self.sha256}; give that reference, or set protocol.reference_sha256."
            )
        self._check_built(protocol)
        if (lacking := self.lacks(protocol)) and self.images is None:
            raise EvaluationError(
                f"The reference {self.name} has {self._holdings()}, which does not serve {', '.join(lacking)}; write "
                f"{' '.join(f'protocol.metrics.{name}=null' for name in lacking)}, or give a reference with images."
            )
        compared = {metric.reference for metric in comparing(protocol)}
        for layer, stored in self.statistics.items():
            size = SIZES.get((str(protocol.extractor), layer))
            if size is not None and layer in compared:
                _check_size(self, layer, stored, size)

    def _check_built(self, protocol: Protocol) -> None:
        built = self.record.get("extractor_sha256"), self.record.get("extractor_resize")
        if built[0] is not None and built != (extractor_sha256(protocol), protocol.resize):
            raise EvaluationError(
                f"The reference {self.name} was built with the extractor {self.record['extractor']} {built[0][:8]} and "
                f"resize {built[1]}, but the protocol {protocol.name} measures with {protocol.extractor} "
                f"{str(extractor_sha256(protocol))[:8]} and resize {protocol.resize}; build it again with that protocol."
            )
        dinov2 = self.record.get("dinov2_sha256")
        if dinov2 is not None and "dinov2" in protocol.folders() and dinov2 != further_sha256(protocol)["dinov2"]:
            raise EvaluationError(
                f"The reference {self.name} was built with the DINOv2 weights {dinov2[:8]}, but protocol.dinov2_path has "
                f"{further_sha256(protocol)['dinov2'][:8]}; build it again with these, or give those."
            )

    def _serves(self, metric: SetMetric) -> bool:
        layer = metric.reference
        return layer in self.features or (layer in self.statistics and not metric.whole)

    def _holdings(self) -> str:
        layers = [f"statistics of '{layer}'" for layer in self.statistics]
        return " and ".join([*layers, *(f"'{layer}' of every image" for layer in self.features)]) or "images alone"


def comparing(protocol: Protocol) -> list[SetMetric]:
    """The protocol's metrics that compare with a reference; the others read images alone, or compare them with their twins."""
    return [m for m in protocol.metrics.values() if isinstance(m, SetMetric) and m.reference is not None]


def statistics_of(features: Tensor) -> Statistics:
    """Mean and covariance (N - 1) of features (N, D), in float64."""
    return Statistics(*moments(features.numpy()))


def frechet(images: Features, reference: Reference, layer: str) -> float:
    """Fréchet distance between the features (N, D) of images and a reference, >= 0 except for rounding.

    Raises EvaluationError where the reference's features have another size.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    real_statistics = reference.moments(layer)
    _check_size(reference, layer, real_statistics, images[layer].shape[1])
    image_statistics = statistics_of(images[layer])
    distances = fid_statistics_to_metric(image_statistics._asdict(), real_statistics._asdict(), verbose=False)
    return float(distances[KEY_METRIC_FID])


def _check_size(reference: Reference, layer: str, real_statistics: Statistics, size: int) -> None:
    if len(real_statistics.mu) != size:
        raise EvaluationError(
            f"The reference {reference.name} has statistics of {len(real_statistics.mu)} features, but the extractor gives {size} for"
            f" '{layer}'; give the statistics of this extractor, or the protocol of these."
        )
