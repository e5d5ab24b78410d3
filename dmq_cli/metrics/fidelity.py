"""Measure a set of images by a protocol, against a reference and against their full-precision twins.

As `torch_fidelity.calculate_metrics` for its metrics, with three differences: the features of a reference are extracted once per
process, not once per call; nothing is cached in files (its cache unpickles); the statistics of FD and KID are computed in float64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.extractors import Images, as_tensor, extract, extractor_sha256, further_sha256
from dmq_cli.metrics.metric import Measurement, Sample, SetMetric, TwinMetric
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Features, Reference, comparing


def fidelity(
    images: Images, reference: Images | Reference, protocol: Protocol, subjects: Sequence[str] | None = None
) -> dict[str, float]:
    """Measure images against a reference: images uint8 (N, H, W, 1 or 3), exactly `protocol.num_images`; the
    reference a Reference, or images like these.

    Returns the numbers of the protocol's metrics, except those that compare with full-precision twins. subjects: the class or
    prompt of each image; without it there is no agreement and no clip_score. Raises EvaluationError for another number of
    images or a reference that is too small; errors of weights as in `read_weights`.
    """
    real = reference if isinstance(reference, Reference) else reference_of(str(protocol.reference), reference)
    check_images(len(images), protocol)
    sample = Sample(extract(images, protocol, subjects=subjects), subjects)
    return dict(measure(sample, with_features(real, protocol), protocol).numbers)


def measure(images: Sample, reference: Features | Reference, protocol: Protocol) -> Measurement:
    """Measure images by the protocol's SetMetrics. reference: features of `extract`, or a Reference of `with_features`; {} if
    there is none, and then no metric of the protocol compares with it.
    """
    real = reference if isinstance(reference, Reference) else Reference(str(protocol.reference), "", features=reference)
    for features in images.features.values():
        check_images(len(features), protocol)
    _check_reference(real, protocol)
    measurement = Measurement()
    for metric in protocol.metrics.values():
        if isinstance(metric, SetMetric):
            measurement |= metric.measure(images, real, protocol)
    return measurement


def compare(images: Sample, twins: Images, protocol: Protocol, device: torch.device | str = "cpu") -> Measurement:
    """Measure images by the protocol's TwinMetrics. twins: full-precision images, uint8 (N, H, W, C), in the same order."""
    metrics = list(_of_twins(protocol))
    layers = {layer for metric in metrics for layer in metric.layers}
    features = extract(twins, protocol, device=device, layers=layers) if layers else {}
    twin = Sample(features, pixels=twins)
    measurement = Measurement()
    for metric in metrics:
        measurement |= metric.compare(images, twin, protocol)
    return measurement


def _of_twins(protocol: Protocol) -> Iterator[TwinMetric]:
    yield from (metric for metric in protocol.metrics.values() if isinstance(metric, TwinMetric))


def reference_of(name: str, images: Images) -> Reference:
    """Make a reference of images, uint8 (N, H, W, C), with their sha256."""
    record = {"layout": "images", "count": len(images), "size": list(images.shape[1:])}
    return Reference(name, images_sha256(images), images=lambda: images, record=record)


def with_features(reference: Reference, protocol: Protocol, device: torch.device | str = "cpu") -> Reference:
    """Add the features of its images to a reference, where the protocol's metrics need them, computed on `device`. Raises as
    Reference.check."""
    reference.check(protocol)
    if reference.images is None or not reference.lacks(protocol):
        return reference
    return replace(reference, features=reference_features(reference.images(), protocol, device))


def reference_features(reference: Images, protocol: Protocol, device: torch.device | str = "cpu") -> Features:
    """Extract the features of a reference that the protocol's metrics need; the last two references of a process are cached."""
    weights = (extractor_sha256(protocol), *sorted(further_sha256(protocol).items()))
    layers = tuple(sorted({metric.reference for metric in comparing(protocol) if metric.reference}))
    key = (weights, images_sha256(reference), protocol.resize, layers)
    if key not in _remembered:
        while len(_remembered) >= 2:
            del _remembered[next(iter(_remembered))]
        _remembered[key] = extract(reference, protocol, device=device, layers=layers)
    return _remembered[key]


def check_images(images: int, protocol: Protocol) -> None:
    """Raise EvaluationError for another number of images than the protocol measures."""
    if images != protocol.num_images:
        raise EvaluationError(
            f"Protocol {protocol.name} measures exactly {protocol.num_images} images, but {images} were "
            "given, and the number changes the result; sample as many, or set protocol.num_images."
        )


def images_sha256(images: Images) -> str:
    """Hash a set of uint8 images: its shape and its bytes, in the order (N, H, W, C)."""
    pixels = as_tensor(images)
    state = hashlib.sha256(f"{pixels.dtype} {tuple(pixels.shape)}\n".encode())
    state.update(pixels.numpy().data)
    return state.hexdigest()


def _check_reference(reference: Reference, protocol: Protocol) -> None:
    """Check that the reference has features of enough images for every metric that reads them. Raises EvaluationError."""
    counts = [
        (metric.least, len(reference.features[metric.reference]))
        for metric in comparing(protocol)
        if metric.reference is not None and metric.reference in reference.features
    ]
    needed, available = max((least for least, _ in counts), default=0), min((count for _, count in counts), default=0)
    if available < needed:
        raise EvaluationError(
            f"Protocol {protocol.name} needs at least {needed} reference images, but {protocol.reference} "
            f"has {available}; give a larger reference or a smaller protocol.metrics.kid.subset_size."
        )


_remembered: dict[tuple[Any, ...], Features] = {}
