"""Build the statistics of a set of real images, in one pass over its batches.

Mean and covariance are accumulated in float64 by the pairwise update of Chan, Golub, LeVeque (1979), which is stable for any number
of images. The features of a random subset are kept beside them for KID, precision and recall.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.extractors import extract, extractor_sha256, further_sha256
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.reading.image_files import ImageSource
from dmq_cli.metrics.references.own import save_reference
from dmq_cli.metrics.references.reference import Array, Statistics, comparing

KEPT = 10_000
"""Number of images whose features are kept, at most: that of ADM's reference batches for precision and recall."""

_SEED = 2020  # of the subset; torch-fidelity's default seed


class Moments:
    """Mean and covariance of features that come in batches (B, D)."""

    def __init__(self) -> None:
        self.count, self.mean, self.scatter = 0, np.zeros(0), np.zeros((0, 0))

    def update(self, features: Tensor) -> None:
        """Add a batch, (B, D) with B >= 1."""
        batch: Array = features.double().numpy()
        mean, count = batch.mean(axis=0), len(batch)
        scatter = (batch - mean).T @ (batch - mean)
        if self.count:
            shift, total = mean - self.mean, self.count + count
            scatter += self.scatter + np.outer(shift, shift) * (self.count * count / total)
            mean, count = self.mean + shift * (count / total), total
        self.count, self.mean, self.scatter = count, mean, scatter

    def statistics(self) -> Statistics:
        """Statistics of all batches so far, divided by n - 1; at least two images."""
        return Statistics(self.mean, self.scatter / (self.count - 1))


def build_reference(
    source: ImageSource,
    protocol: Protocol,
    name: str,
    file: Path,
    report: Callable[[int, int], None],
    device: str = "cpu",
) -> dict[str, Any]:
    """Extract the features of all images, write their statistics to `file` and return the record beside them.

    protocol: gives the extractor and the layers, of those metrics that need only statistics or the kept features. report(done,
    total): called with numbers of images; device: of the extractor. Raises EvaluationError for fewer than two images and what
    `extract` raises.
    """
    count = source.shape[0]
    if count < 2:
        raise EvaluationError(f"A reference needs at least 2 images, but {source.name} has {count}; give more.")
    metrics = [metric for metric in comparing(protocol) if not metric.whole or metric.reference == "features"]
    protocol = replace(protocol, metrics={metric.name: metric for metric in metrics})
    layers = {"features", *(metric.reference for metric in metrics if metric.reference)}
    moments: dict[str, Moments] = {}
    kept_features, chosen = [], _chosen(count)
    pixels, num_done = hashlib.sha256(f"torch.uint8 {source.shape}\n".encode()), 0  # as images_sha256
    for batch in source.batches():
        pixels.update(np.ascontiguousarray(batch).data)
        features = extract(batch, protocol, device=device, layers=layers)
        for layer in sorted(layers):
            moments.setdefault(layer, Moments()).update(features[layer])
        kept_features.append(features["features"][chosen[num_done : num_done + len(batch)]])
        num_done += len(batch)
        report(num_done, count)
    tensors = {"features": torch.cat(kept_features)}
    for layer, layer_moments in moments.items():
        for part, array in layer_moments.statistics()._asdict().items():
            tensors[f"{part}.{layer}"] = torch.from_numpy(array)
    record = _record(source, protocol, name) | {"features": int(chosen.sum()), "images_sha256": pixels.hexdigest()}
    return save_reference(file, tensors, record)


def _chosen(count: int) -> Tensor:
    """Choose the images whose features are kept, (count,) bool: all, or KEPT at random, as folders are often sorted by class."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(_SEED))
    return torch.zeros(count, dtype=torch.bool).index_fill_(0, order[:KEPT], True)


def _record(source: ImageSource, protocol: Protocol, name: str) -> dict[str, Any]:
    framing = source.framing
    return {
        "name": name,
        **source.record(),
        "crop": framing.crop,
        "resize": framing.resize,
        "resize_filter": None if framing.resize is None else framing.resize_filter,
        "to_uint8": None
        if framing.resize is None
        else "round",  # PIL's scaling rounds; images that are not scaled are uint8 already
        "extractor": protocol.extractor,
        "extractor_sha256": extractor_sha256(protocol),
        "extractor_resize": protocol.resize,
        "dinov2_sha256": further_sha256(protocol).get("dinov2"),
    }
