"""The numbers of images as a protocol has them, each with its interval: of those sampled here and of anybody else's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.metrics import Protocol, extract, extractor_sha256, further_sha256, judged, measure, with_features
from dmq_cli.metrics.fidelity import check_images
from dmq_cli.metrics.image_files import Pixels, read_images
from dmq_cli.metrics.protocol import RESULTS
from dmq_cli.stages.reference import OUTPUTS, find_reference, read_archive


def judge(
    images: Pixels,
    protocol: Protocol,
    outputs: str | Path,
    asked: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """{"numbers", "intervals", "protocol"} of images, uint8 (N, H, W, 1 or 3); and the influence (N,) of every image on each
    distance.

    outputs: the folder whose `references` hold what was built; asked: what each image was to show. Raises EvaluationError
    for images or a reference that do not fit the protocol, errors of weights as in `read_weights`.
    """
    check_images(len(images), protocol)
    known = with_features(find_reference(protocol, outputs), protocol, device)
    features = extract(images, protocol, asked=asked, device=device)
    found, influences = judged(measure(features, known, protocol, asked), features, known, protocol)
    record = protocol.record(known.sha256, extractor_sha256(protocol), further_sha256(protocol))
    return {**found, "protocol": record}, influences


def measure_images(
    what: str, protocol: Protocol, asked: Sequence[str] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """What `judge` finds in a folder of PNG files, in the order of their names, or in an .npz of images. Raises what it does,
    and ConfigError for a protocol that would leave out what it asks for.
    """
    _check_metrics(protocol, asked)
    place = Path(what).expanduser()
    return judge(read_images(place) if place.is_dir() else read_archive(place), protocol, OUTPUTS, asked, device)[0]


def _check_metrics(protocol: Protocol, asked: Sequence[str] | None) -> None:
    if not protocol.metrics:
        raise ConfigError(f"Nothing was to be measured: protocol.metrics is empty; name some of {', '.join(RESULTS)}.")
    unasked = [metric for metric in ("agreement", "clip_score") if metric in protocol.metrics and asked is None]
    if unasked:
        raise ConfigError(
            f"The protocol {protocol.name} asks for {' and '.join(unasked)}, which need what the images were to show; give "
            f"--prompts FILE, or protocol.metrics without {' and '.join(unasked)}."
        )
