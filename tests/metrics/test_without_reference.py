"""Protocols without real images or features: what they measure, what they refuse, what their record says."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from dmq_cli import choices
from dmq_cli.errors import ConfigError, EvaluationError
from dmq_cli.metrics import Protocol, Sample, extract, extractor_sha256, measure
from dmq_cli.metrics.fidelity import compare
from dmq_cli.stages import build
from dmq_cli.stages.find_reference import find_reference
from dmq_cli.stages.prepare import measured_with
from tests.metrics.helpers import PAIRED, paired, protocol
from tests.tiny import one_sentence


def plan(**changes: Any) -> Protocol:
    nothing: dict[str, Any] = {
        "extractor": None,
        "extractor_path": None,
        "reference": None,
        "columns": {},
        "metrics": PAIRED,
    }
    return protocol(**{**nothing, **changes})


def test_nothing_real_is_looked_for_and_no_features_are_read() -> None:
    paired_protocol, images = plan(num_images=4), np.zeros((4, 5, 3, 7), np.uint8)
    assert (
        find_reference(paired_protocol, "nowhere") is None
        and extractor_sha256(paired_protocol) is None
        and paired_protocol.layers() == set()
    )
    assert measured_with(paired_protocol, "nowhere") == {"extractor": None, "reference": None}
    assert extract(images, paired_protocol) == {} and measure(Sample(pixels=images), {}, paired_protocol).numbers == {}
    assert compare(Sample(pixels=images), images, paired_protocol).numbers == {"psnr": 100.0}


def test_the_record_says_what_is_there_and_no_more() -> None:
    record = plan().record(None, None)
    assert set(record) == {"name", "columns", "to_uint8", "num_images", "metrics", "rng_seed", "hash"}
    assert list(record["metrics"]) == list(PAIRED)
    assert record["hash"] == plan(name="x", seeds="0-3").hash(None, None)
    others = [plan(num_images=5), plan(metrics=("psnr",)), plan(to_uint8="trunc")]
    assert (
        len({record["hash"], *(other.hash(None, None) for other in others), plan().hash(None, None, {"lpips": "a"})})
        == 5
    )


@pytest.mark.parametrize(
    ("metric", "changes", "lacks"),
    [
        ("fd", {}, "no extractor; give protocol.extractor"),
        ("fd_to_twin", {}, "no extractor"),
        ("is", {}, "no extractor"),
        ("agreement", {}, "which only digits_cnn has"),
        ("cmmd", {"clip_path": "/clip"}, "no reference; give protocol.reference"),
        ("fd", {"extractor": "digits_cnn"}, "no reference"),
    ],
)
def test_metrics_that_need_more_are_refused(metric: str, changes: dict[str, Any], lacks: str) -> None:
    with pytest.raises(ConfigError, match=lacks) as caught:
        plan(metrics=(metric,), **changes)
    one_sentence(caught.value)


def test_features_without_real_images() -> None:
    """An extractor alone serves metrics of the twins and of the images alone."""
    words = [
        "protocol.extractor=digits_cnn",
        "protocol.extractor_path=package:zoo/weights/digits_cnn/model.safetensors",
    ]
    words += ["+metric@protocol.metrics.fd_to_twin=fd_to_twin", "protocol.num_images=8"]
    paired_protocol: Protocol = build.make(choices.protocol_with("paired", words))
    images = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 1), dtype=np.uint8)
    sample = Sample(extract(images, paired_protocol), pixels=images)
    measurement = compare(sample, images[:, ::-1].copy(), paired_protocol)
    assert measurement.numbers["fd_to_twin"] > 0 and set(measurement.numbers) == {"psnr", "ssim", "fd_to_twin"}
    assert (
        "reference" not in paired_protocol.record(None, "b")
        and paired_protocol.record(None, "b")["extractor"] == "digits_cnn"
    )


@pytest.mark.parametrize("shape", [(3,), (5, 4), (2, 3, 4, 4)])
def test_psnr_of_samples_that_are_no_images(shape: tuple[int, ...]) -> None:
    zero = np.zeros((2, *shape), np.float32)
    other = zero + np.array([0.5, 2.0], np.float32).reshape(2, *[1] * len(shape))
    measurement = paired(other, zero, plan(num_images=2))
    assert measurement.numbers == {"psnr": pytest.approx((10 * math.log10(4 / 0.25) + 0) / 2)}
    with pytest.raises(EvaluationError, match=r"float32 \(N, \.\.\.\), of one shape"):
        paired(other.astype(np.uint8), zero.astype(np.uint8), plan(num_images=2))
