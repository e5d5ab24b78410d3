"""Numbers of a set of images against a reference, by torch-fidelity's own functions from features to
metric.

Fréchet distance: Heusel et al., NeurIPS 2017 (1706.08500). Inception score: Salimans et al., NeurIPS 2016
(1606.03498). KID: Bińkowski et al., ICLR 2018 (1801.01401). Precision and recall: Kynkäänniemi et al.,
NeurIPS 2019 (1904.06991).

What `torch_fidelity.calculate_metrics` computes, with three differences: the features of a reference are
extracted once per process and not once per call, nothing is cached in files (its cache unpickles), and the
statistics of FD and KID are computed in float64. The Fréchet distance itself is in reference.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric
from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.agreement import agreement
from dmq_cli.metrics.extractors import Images, as_tensor, extract, extractor_sha256, further_sha256
from dmq_cli.metrics.protocol import Protocol
from dmq_cli.metrics.references.reference import Features, Reference, frechet

_Metric = Callable[[Features, Reference, Protocol], dict[str, float]]


def fidelity(
    images: Images, reference: Images | Reference, protocol: Protocol, asked: Sequence[str] | None = None
) -> dict[str, float]:
    """Measure images against a reference: images uint8 (N, H, W, 1 or 3), exactly `protocol.num_images`; the
    reference a Reference, or images like these.

    Returns what `protocol.metrics` asks for out of {fd, is, is_std, kid, kid_std, precision, recall, agreement, sfid,
    fd_dinov2, clip_score}: fd, sfid and fd_dinov2 >= 0 in squared feature units, is in [1, classes], kid around 0 for
    equal distributions, precision and recall in [0, 1], clip_score in [0, 100]; is_std and kid_std are deviations over
    splits and subsets. asked: what each image was to show; without it there is no agreement and no clip_score. Raises
    EvaluationError for another number of images or a reference that is too small; errors of weights as in
    `read_weights`.
    """
    known = reference if isinstance(reference, Reference) else reference_of(protocol.reference, reference)
    check_images(len(images), protocol)
    return measure(extract(images, protocol, asked=asked), with_features(known, protocol), protocol, asked)


def measure(
    features: Features, reference: Features | Reference, protocol: Protocol, asked: Sequence[str] | None = None
) -> dict[str, float]:
    """`fidelity` from what `extract` returned for the images and for the reference, or from what `with_features` gave."""
    known = reference if isinstance(reference, Reference) else Reference(protocol.reference, "", features=reference)
    check_images(len(features["features"]), protocol)
    _check_reference(known, protocol)
    result: dict[str, float] = {}
    for metric in protocol.metrics:
        if metric in _METRICS:
            result |= _METRICS[metric](features, known, protocol)
        elif asked is not None:
            result["agreement"] = agreement(features["logits"], asked)
    return result


def reference_of(name: str, images: Images) -> Reference:
    """Images, uint8 (N, H, W, C), as a reference; its sha256 is theirs."""
    record = {"layout": "images", "count": len(images), "size": list(images.shape[1:])}
    return Reference(name, images_sha256(images), images=lambda: images, record=record)


def with_features(reference: Reference, protocol: Protocol, device: torch.device | str = "cpu") -> Reference:
    """The reference with the features of its images, where the protocol's metrics need them, computed on `device`. Raises
    what its `check` does.
    """
    reference.check(protocol)
    if reference.images is None or not reference.lacks(protocol):
        return reference
    return replace(reference, features=reference_features(reference.images(), protocol, device))


def reference_features(reference: Images, protocol: Protocol, device: torch.device | str = "cpu") -> Features:
    """`extract`, remembered: the last two references of a process are not extracted again."""
    weights = (extractor_sha256(protocol), *sorted(further_sha256(protocol).items()))
    key = (weights, images_sha256(reference), protocol.resize, "sfid" in protocol.metrics)
    if key not in _remembered:
        while len(_remembered) >= 2:
            del _remembered[next(iter(_remembered))]
        _remembered[key] = extract(reference, protocol, device=device)
    return _remembered[key]


def check_images(images: int, protocol: Protocol) -> None:
    """Raises EvaluationError for another number of images than the protocol measures."""
    if images != protocol.num_images:
        raise EvaluationError(
            f"Protocol {protocol.name} measures exactly {protocol.num_images} images, but {images} were "
            "given, and the number changes the result; sample as many, or set protocol.num_images."
        )


def images_sha256(images: Images) -> str:
    """The sha256 of a set of uint8 images: its shape and its bytes, in the order (N, H, W, C)."""
    pixels = as_tensor(images)
    state = hashlib.sha256(f"{pixels.dtype} {tuple(pixels.shape)}\n".encode())
    state.update(pixels.numpy().data)
    return state.hexdigest()


def _fd(images: Features, reference: Reference, _protocol: Protocol) -> dict[str, float]:
    return {"fd": frechet(images, reference, "features")}


def _fd_on(layer: str, key: str) -> _Metric:
    """The Fréchet distance on other features than the extractor's own."""
    return lambda images, reference, _protocol: {key: frechet(images, reference, layer)}


def _clip_score(images: Features, _reference: Reference, _protocol: Protocol) -> dict[str, float]:
    return {"clip_score": float(images["clip_score"].double().mean())} if "clip_score" in images else {}


def _is(images: Features, reference: Reference, protocol: Protocol) -> dict[str, float]:
    found = isc_features_to_metric(images["logits"], protocol.splits, shuffle=True, rng_seed=protocol.rng_seed)
    return {"is": found[KEY_METRIC_ISC_MEAN], "is_std": found[KEY_METRIC_ISC_STD]}


def _kid(images: Features, reference: Reference, protocol: Protocol) -> dict[str, float]:
    found = kid_features_to_metric(
        images["features"].double(), reference["features"].double(), verbose=False, **_kid_options(protocol)
    )
    return {"kid": found[KEY_METRIC_KID_MEAN], "kid_std": found[KEY_METRIC_KID_STD]}


def _prc(images: Features, reference: Reference, protocol: Protocol) -> dict[str, float]:
    # float32, as in torch-fidelity: precision can tip over whether a sample lies inside a ball
    ours, theirs = images["features"], reference["features"][: protocol.prc_images]
    large = max(len(ours), len(theirs)) > 10_000  # all distances among 50,000 images would be 10 GB
    found = prc_features_to_metric(
        ours, theirs, verbose=False, prc_neighborhood=protocol.prc_neighbourhood, save_cpu_ram=large
    )
    return {"precision": found[KEY_METRIC_PRECISION], "recall": found[KEY_METRIC_RECALL]}


def _kid_options(protocol: Protocol) -> dict[str, Any]:
    return {
        "kid_subsets": protocol.kid_subsets,
        "kid_subset_size": protocol.kid_subset_size,
        "rng_seed": protocol.rng_seed,
    }


def _check_reference(reference: Reference, protocol: Protocol) -> None:
    """Stored statistics are of as many images as they are of; features must be enough for every metric that reads them."""
    least = {"fd": 2, "kid": protocol.kid_subset_size, "prc": protocol.prc_images or protocol.prc_neighbourhood + 1}
    needed = max([1, *(least.get(metric, 1) for metric in protocol.metrics)])
    found = len(reference.features.get("features", ())) if reference.features else needed
    if found < needed:
        raise EvaluationError(
            f"Protocol {protocol.name} needs at least {needed} reference images, but {protocol.reference} "
            f"has {found}; give a larger reference or a smaller protocol.kid_subset_size."
        )


_METRICS: dict[str, _Metric] = {
    "fd": _fd,
    "is": _is,
    "kid": _kid,
    "prc": _prc,
    "sfid": _fd_on("spatial", "sfid"),
    "fd_dinov2": _fd_on("dinov2", "fd_dinov2"),
    "clip_score": _clip_score,
}
_remembered: dict[tuple[Any, ...], Features] = {}
