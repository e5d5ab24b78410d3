"""Measure images by a protocol, each number with its interval: images sampled by dmq or read from a folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
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
from dmq_cli.stages.find_reference import OUTPUTS, find_reference, open_images
from dmq_cli.store import read_json

_log = logging.getLogger("dmq")


def judge(
    images: Pixels,
    protocol: Protocol,
    outputs: str | Path,
    subjects: Sequence[str] | None = None,
    device: torch.device | str = "cpu",
    twins: Pixels | None = None,
    features: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Measure images, uint8 (N, H, W, 1 or 3), or of any shape if the protocol reads no features: {"numbers", "intervals",
    "protocol"}, and the influence (N,) of every image on each distance. With twins, also {"paired", "paired_intervals"}.

    outputs: the folder whose `references` hold built ones; subjects: the class or prompt of each image; twins: the
    full-precision images from the same noise; features: of `extract`, None where they are not known. Raises EvaluationError for
    images or a reference that do not fit the protocol, errors of weights as in `read_weights`.
    """
    check_images(len(images), protocol)
    real = find_reference(protocol, outputs)
    known = extract(images, protocol, subjects=subjects, device=device) if features is None else features
    sample = Sample(known, subjects, images)
    measured = measure(sample, {} if real is None else with_features(real, protocol, device), protocol)
    reference_sha256 = None if real is None else real.sha256
    record = protocol.record(reference_sha256, extractor_sha256(protocol), further_sha256(protocol))
    numbers = {"numbers": dict(measured.numbers), "intervals": dict(measured.intervals), "protocol": record}
    if twins is None:
        return numbers, dict(measured.influences)
    pairs = compare(sample, twins, protocol, device)
    numbers |= {"paired": dict(pairs.numbers), "paired_intervals": dict(pairs.intervals)}
    return numbers, {**measured.influences, **pairs.influences}


def measure_images(
    what: str, protocol: Protocol, prompts: Sequence[str] | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Measure a folder of PNG files or an .npz of images by `judge`; `images` in the result says which files were read and which not.

    prompts: image i of an .npz belongs to line i, a file to the line of the number in its name (see `line_numbers`), both
    modulo the number of lines. Raises what `judge` and `line_numbers` do, ConfigError for a protocol whose metrics need what is
    not given, and EvaluationError for images that were sampled from other prompts.
    """
    _check_metrics(protocol, prompts)
    source = open_images(what, Framing(), lossless=True)
    check_images(source.shape[0], protocol)
    check_readable(source.shape[1:], protocol, source.name)
    subjects = None if prompts is None else _subjects(source, prompts)
    _log.info("%s: %s", source.name, source.describe())
    numbers, _ = judge(source.pixels(), protocol, OUTPUTS, subjects, device)
    return {**numbers, "images": source.record()}


def _subjects(source: ImageSource, prompts: Sequence[str]) -> list[str]:
    """Find the prompt of each image, and check it against the record beside an .npz of dmq's own."""
    numbers = line_numbers(source.files, len(prompts), source.name) if source.files else range(source.shape[0])
    subjects = [prompts[number % len(prompts)] for number in numbers]
    beside = Path(source.name).with_name(ASKED)
    if not source.files and beside.is_file():
        _check_sampled(beside, subjects)
    return subjects


def _check_sampled(beside: Path, subjects: Sequence[str]) -> None:
    """Compare prompts with those that dmq recorded beside its images, whose first seed need not belong to the first line."""
    record = read_json(beside)
    sampled = record.get("asked") if isinstance(record, dict) else None
    if not isinstance(sampled, list) or len(sampled) != len(subjects):
        raise EvaluationError(f"{beside} should say of {len(subjects)} images what they show, but does not; remove it.")
    if (index := next((i for i, subject in enumerate(subjects) if subject != sampled[i]), None)) is not None:
        raise EvaluationError(
            f"Image {index} was sampled from {sampled[index]!r} (says {beside}), but --prompts gives {subjects[index]!r}; give the"
            " prompts that it was sampled from, beginning with the line of its first seed."
        )


def _check_metrics(protocol: Protocol, subjects: Sequence[str] | None) -> None:
    metrics = protocol.metrics.values()
    if not any(isinstance(metric, SetMetric) for metric in metrics):
        raise ConfigError(
            "Nothing was to be measured: protocol.metrics has none that needs no full-precision twin; add one of"
            f" {', '.join(names('metric'))} with +metric@protocol.metrics.NAME=NAME."
        )
    if unasked := [metric.name for metric in metrics if metric.asks and subjects is None]:
        raise ConfigError(
            f"The protocol {protocol.name} asks for {' and '.join(unasked)}, which need the prompt or class of each image; give "
            f"--prompts FILE, or write {' '.join(f'protocol.metrics.{name}=null' for name in unasked)}."
        )
    # PairMetrics are no error: every protocol has some, for evaluation.
    if alone := [m.name for m in metrics if isinstance(m, TwinMetric) and not isinstance(m, PairMetric)]:
        raise ConfigError(
            f"The protocol {protocol.name} asks for {' and '.join(alone)}, which compare with full-precision images from the same"
            " noise, and none are given; measure them with dmq evaluate."
        )
