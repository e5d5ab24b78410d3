"""What images are compared with: features of real images, or the mean and covariance of them that somebody stored.

Fréchet distance from stored statistics is torch-fidelity's `fid_statistics_to_metric` in float64 (Heusel et al., NeurIPS
2017, 1706.08500). Where a file has both statistics and images, as ADM's reference batches have, the distance comes from the
statistics, which are of the whole data set, and only precision, recall and KID from the images, which are 10,000 of it
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
    ("inception-v3-compat", "features"): 2048,
    ("inception-v3-compat", "spatial"): 2023,
}
"""How many features an extractor gives for a layer; DINOv2's depend on its folder."""


class Statistics(NamedTuple):
    """Mean (D,) and covariance (D, D) of the features of a set of images, float64; of n images divided by n - 1."""

    mu: Array
    sigma: Array


@dataclass(frozen=True, eq=False)
class Reference:
    """Real images as a protocol compares with them.

    name: how the protocol calls them. sha256: 64 hexadecimal digits that name the contents. statistics: layer -> Statistics
    as stored; features: layer -> (n, D) float32; images: gives them, uint8 (N, H, W, C). At least one of the three is there.
    record: what is known of where it comes from, plain values.
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
        """The protocol's metrics that statistics and features do not serve: they need the images."""
        return [metric.name for metric in comparing(protocol) if not self._serves(metric)]

    def check(self, protocol: Protocol) -> None:
        """Raise EvaluationError if it cannot serve the protocol, another one was asked for by `reference_sha256`, or it was
        built with other weights.
        """
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
        for layer, known in self.statistics.items():
            size = SIZES.get((protocol.extractor, layer))
            if size is not None and layer in compared:
                _check_size(self, layer, known, size)

    def _check_built(self, protocol: Protocol) -> None:
        built = self.record.get("extractor_sha256"), self.record.get("extractor_resize")
        if built[0] is not None and built != (extractor_sha256(protocol), protocol.resize):
            raise EvaluationError(
                f"The reference {self.name} was built with the extractor {self.record['extractor']} {built[0][:8]} and "
                f"resize {built[1]}, but the protocol {protocol.name} measures with {protocol.extractor} "
                f"{extractor_sha256(protocol)[:8]} and resize {protocol.resize}; build it again with that protocol."
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
    """The protocol's metrics that compare with a reference; the others read images alone, or hold them against their twins."""
    return [m for m in protocol.metrics.values() if isinstance(m, SetMetric) and m.reference is not None]


def statistics_of(features: Tensor) -> Statistics:
    """Mean and covariance (N - 1) of features (N, D), in float64."""
    return Statistics(*moments(features.numpy()))


def frechet(images: Features, reference: Reference, layer: str) -> float:
    """Fréchet distance between the features (N, D) of images and a reference, >= 0 but for rounding.

    Raises EvaluationError where the reference's features have another size.
    """
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    theirs = reference.moments(layer)
    _check_size(reference, layer, theirs, images[layer].shape[1])
    ours = statistics_of(images[layer])
    found = fid_statistics_to_metric(ours._asdict(), theirs._asdict(), verbose=False)
    return float(found[KEY_METRIC_FID])


def _check_size(reference: Reference, layer: str, theirs: Statistics, size: int) -> None:
    if len(theirs.mu) != size:
        raise EvaluationError(
            f"The reference {reference.name} has statistics of {len(theirs.mu)} features, but the extractor gives {size} for"
            f" '{layer}'; give the statistics of this extractor, or the protocol of these."
        )
