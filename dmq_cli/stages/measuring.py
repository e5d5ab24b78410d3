"""The numbers of images as a protocol has them, each with its interval: of those sampled here and of anybody else's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.choices import names
from dmq_cli.errors import ConfigError, EvaluationError
from dmq_cli.metrics import (
    PairMetric,
    Protocol,
    Sample,
    SetMetric,
    TwinMetric,
    compare,
    extract,
    extractor_sha256,
    further_sha256,
    measure,
    with_features,
)
from dmq_cli.metrics.extractors import check_readable
from dmq_cli.metrics.fidelity import check_images
from dmq_cli.metrics.reading.image_files import Framing, ImageSource
from dmq_cli.metrics.reading.look import Pixels
from dmq_cli.metrics.reading.order import line_numbers
from dmq_cli.results.record import ASKED
from dmq_cli.stages.find_reference import OUTPUTS, find_reference, found_images
from dmq_cli.store import read_json

_log = logging.getLogger("dmq")


def judge(
    images: Pixels,
    protocol: Protocol,
    outputs: str | Path,
    asked: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    twins: Pixels | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """{"numbers", "intervals", "protocol"} of images, uint8 (N, H, W, 1 or 3), of any shape where the protocol reads no features;
    and the influence (N,) of every image on each distance. With twins, also {"paired", "paired_intervals"}.

    outputs: the folder whose `references` hold what was built; asked: what each image was to show; twins: what full precision
    makes of the same noise. Raises EvaluationError for images or a reference that do not fit the protocol, errors of weights
    as in `read_weights`.
    """
    check_images(len(images), protocol)
    real = find_reference(protocol, outputs)
    sample = Sample(extract(images, protocol, asked=asked, device=device), asked, images)
    found = measure(sample, {} if real is None else with_features(real, protocol, device), protocol)
    reference_sha256 = None if real is None else real.sha256
    record = protocol.record(reference_sha256, extractor_sha256(protocol), further_sha256(protocol))
    numbers = {"numbers": dict(found.numbers), "intervals": dict(found.intervals), "protocol": record}
    if twins is None:
        return numbers, dict(found.influences)
    pairs = compare(sample, twins, protocol, device)
    numbers |= {"paired": dict(pairs.numbers), "paired_intervals": dict(pairs.intervals)}
    return numbers, {**found.influences, **pairs.influences}


def measure_images(
    what: str, protocol: Protocol, prompts: Sequence[str] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """What `judge` finds in a folder of PNG files, or in an .npz of images; and `images`, what was read and what was not.

    prompts: what the images were to show. An image of an .npz belongs to the line of its place, a file to the line of the
    number in its name (see `line_numbers`), both from the start again after the last line. Raises what `judge` and
    `line_numbers` do, ConfigError for a protocol that would leave out what it asks for, and EvaluationError for images
    that were sampled from other prompts.
    """
    _check_metrics(protocol, prompts)
    source = found_images(what, Framing(), lossless=True)
    check_images(source.shape[0], protocol)
    check_readable(source.shape[1:], protocol, source.name)
    asked = None if prompts is None else _asked(source, prompts)
    _log.info("%s: %s", source.name, source.told())
    found, _ = judge(source.pixels(), protocol, OUTPUTS, asked, device)
    return {**found, "images": source.record()}


def _asked(source: ImageSource, prompts: Sequence[str]) -> list[str]:
    """What each image was to show."""
    numbers = line_numbers(source.files, len(prompts), source.name) if source.files else range(source.shape[0])
    asked = [prompts[number % len(prompts)] for number in numbers]
    beside = Path(source.name).with_name(ASKED)
    if not source.files and beside.is_file():
        _check_sampled(beside, asked)
    return asked


def _check_sampled(beside: Path, asked: Sequence[str]) -> None:
    """dmq keeps what images were sampled from beside them; their first seed need not belong to the first line."""
    record = read_json(beside)
    sampled = record.get("asked") if isinstance(record, dict) else None
    if not isinstance(sampled, list) or len(sampled) != len(asked):
        raise EvaluationError(f"{beside} should say of {len(asked)} images what they show, but does not; remove it.")
    if (other := next((i for i, one in enumerate(asked) if one != sampled[i]), None)) is not None:
        raise EvaluationError(
            f"By {beside} image {other} was to show {sampled[other]!r}, but by --prompts {asked[other]!r}; give the prompts that it"
            " was sampled from, beginning with the line of its first seed."
        )


def _check_metrics(protocol: Protocol, asked: Sequence[str] | None) -> None:
    metrics = protocol.metrics.values()
    if not any(isinstance(metric, SetMetric) for metric in metrics):
        raise ConfigError(
            "Nothing was to be measured: protocol.metrics has none that needs no full-precision twin; add one of"
            f" {', '.join(names('metric'))} with +metric@protocol.metrics.NAME=NAME."
        )
    if unasked := [metric.name for metric in metrics if metric.asks and asked is None]:
        raise ConfigError(
            f"The protocol {protocol.name} asks for {' and '.join(unasked)}, which need what the images were to show; give "
            f"--prompts FILE, or write {' '.join(f'protocol.metrics.{name}=null' for name in unasked)}."
        )
    # Of pairs every protocol has some, for evaluation.
    if alone := [m.name for m in metrics if isinstance(m, TwinMetric) and not isinstance(m, PairMetric)]:
        raise ConfigError(
            f"The protocol {protocol.name} asks for {' and '.join(alone)}, which compare with what full precision makes of the same"
            " noise, and there is nothing like that here; measure them with dmq evaluate."
        )
