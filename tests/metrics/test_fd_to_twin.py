"""The Fréchet distance to the full-precision images, against scipy's matrix root, a jackknife of pairs and simulations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from numpy.typing import NDArray

from dmq_cli.metrics import Measurement, Sample
from dmq_cli.metrics.fd_to_twin import FrechetDistanceToTwin
from tests.metrics.helpers import digits, noisy, paired, protocol

Array = NDArray[np.float64]
DIMS, COUNT = 16, 1000
MIX = np.linalg.qr(np.random.default_rng(0).standard_normal((DIMS, DIMS)))[0] * np.geomspace(1.5, 0.1, DIMS)


def compared(images: Array, twins: Array) -> Measurement:
    ours, theirs = (Sample({"features": torch.from_numpy(features)}) for features in (images, twins))
    return FrechetDistanceToTwin().compare(ours, theirs, protocol())


def by_scipy(images: Array, twins: Array) -> float:
    covariances = [np.cov(features, rowvar=False) for features in (images, twins)]
    root: Any = scipy.linalg.sqrtm(covariances[0] @ covariances[1])
    shift = images.mean(0) - twins.mean(0)
    return float(shift @ shift + np.trace(covariances[0] + covariances[1] - 2 * root.real))


def pairs(random: np.random.Generator, count: int, scale: float, shift: float) -> tuple[Array, Array]:
    """Gaussian features of twins, and of images that are scaled, moved and a little noisy."""
    twins = random.standard_normal((count, DIMS)) @ MIX.T
    return scale * twins + shift + 0.1 * random.standard_normal(twins.shape), twins


def test_it_is_the_distance_of_two_gaussians() -> None:
    images, twins = pairs(np.random.default_rng(1), COUNT, 0.8, 0.1)
    measurement = compared(images, twins)
    assert measurement.numbers["fd_to_twin"] == pytest.approx(by_scipy(images, twins), rel=1e-8)
    assert compared(twins, images).numbers["fd_to_twin"] == pytest.approx(measurement.numbers["fd_to_twin"], rel=1e-8)
    assert measurement.influences["fd_to_twin"].shape == (COUNT,)


def test_equal_sets_are_at_distance_zero() -> None:
    twins = pairs(np.random.default_rng(2), COUNT, 1, 0)[1]
    measurement = compared(twins, twins)
    low, high = measurement.intervals["fd_to_twin"]
    assert measurement.numbers["fd_to_twin"] == pytest.approx(0, abs=1e-10) and max(-low, high) < 1e-9


@pytest.mark.parametrize(("scale", "shift"), [(0.8, 0.0), (1.0, 0.1), (0.9, 0.05)])
def test_the_interval_covers_the_expected_distance_at_its_rate(scale: float, shift: float) -> None:
    random, estimates = np.random.default_rng(3), []
    for _ in range(150):
        measurement = compared(*pairs(random, COUNT, scale, shift))
        low, high = measurement.intervals["fd_to_twin"]
        estimates.append((measurement.numbers["fd_to_twin"], (high - low) / 2))
    distances, halves = np.array(estimates).T
    covered = np.abs(distances - distances.mean()) <= halves
    assert 0.9 <= covered.mean() <= 0.995, "95 %, within about three standard deviations of 150 tries"
    assert halves.mean() / 1.96 == pytest.approx(distances.std(ddof=1), rel=0.2)


def test_the_error_is_that_of_leaving_pairs_out() -> None:
    images, twins = pairs(np.random.default_rng(4), 200, 0.7, 0.2)
    left = [compared(np.delete(images, n, 0), np.delete(twins, n, 0)).numbers["fd_to_twin"] for n in range(200)]
    jackknife = np.sqrt((len(left) - 1) * np.var(left))
    low, high = compared(images, twins).intervals["fd_to_twin"]
    assert (high - low) / 2 / 1.96 == pytest.approx(jackknife, rel=0.1)


def test_sets_that_are_no_pairs_would_have_a_far_wider_interval() -> None:
    images, twins = pairs(np.random.default_rng(5), COUNT, 0.9, 0.0)
    apart = compared(images[::-1].copy(), twins)
    together = compared(images, twins)
    assert apart.numbers["fd_to_twin"] == pytest.approx(together.numbers["fd_to_twin"], rel=1e-8)
    widths = [np.diff(measurement.intervals["fd_to_twin"])[0] for measurement in (apart, together)]
    assert widths[0] > 2 * widths[1]


def test_it_reads_the_extractors_features_of_both_sets() -> None:
    real = digits(0, 100)
    plan = protocol(num_images=100, metrics=("fd_to_twin",))
    from dmq_cli.metrics import compare, extract

    worse = noisy(real, 30)
    features = extract(worse, plan), extract(real, plan)
    measurement = compare(Sample(features[0], pixels=worse), real, plan)
    arrays = [columns["features"].double().numpy() for columns in features]
    assert measurement.numbers == {"fd_to_twin": pytest.approx(by_scipy(*arrays), rel=1e-4)}
    assert measurement.numbers["fd_to_twin"] > 1 and paired(worse, real).numbers["psnr"] < 30
