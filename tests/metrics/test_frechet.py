"""The spread of the Fréchet distance and its limit, against simulations, jackknives and closed forms."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

from dmq_cli.metrics.frechet import FrechetTo, moments

Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]
DIMS, COUNT = 64, 2000


def gaussian() -> Draw:
    """64 correlated features whose variances span three orders of magnitude."""
    random = np.random.default_rng(0)
    mix = np.linalg.qr(random.standard_normal((DIMS, DIMS)))[0] * np.geomspace(1.5, 0.05, DIMS)
    return lambda rng, count: rng.standard_normal((count, DIMS)) @ mix.T


def mixture() -> Draw:
    """Ten classes after a ReLU, as features of a classifier are: many modes, many zeros, uneven tails."""
    random = np.random.default_rng(1)
    centres = 2 * random.standard_normal((10, DIMS)).clip(0)
    mixes = 0.15 * random.standard_normal((10, DIMS, 8))

    def draw(rng: np.random.Generator, count: int) -> Array:
        labels, inner = rng.integers(0, 10, count), rng.standard_normal((count, 8)) * rng.gamma(8, 0.25, (count, 1))
        bent: Array = centres[labels] + np.einsum("nde,ne->nd", mixes[labels], inner)
        return bent.clip(0)

    return draw


POPULATIONS = {"gaussian": gaussian(), "mixture": mixture()}


def sampled(draw: Draw, scale: float) -> FrechetTo:
    """A reference as it is in practice: a sample of a population that is scaled a little, and stays what it is."""
    return FrechetTo(*moments(scale * draw(np.random.default_rng(2), 1800)))


def spread(reference: FrechetTo, images: Array) -> tuple[float, float]:
    """FD and its standard error."""
    return reference.distance(images), float(reference.influence(images).std(ddof=1) / np.sqrt(len(images)))


def tried(draw: Draw, scale: float, repeats: int) -> tuple[Array, Array]:
    """Distances of `repeats` sets of 2,000 images, and their standard errors."""
    random, reference = np.random.default_rng(3), sampled(draw, scale)
    pairs = np.array([spread(reference, draw(random, COUNT)) for _ in range(repeats)])
    return pairs[:, 0], pairs[:, 1]


@pytest.mark.parametrize("draw", POPULATIONS.values(), ids=POPULATIONS)
def test_the_interval_covers_the_expected_distance_at_its_rate(draw: Draw) -> None:
    distances, errors = tried(draw, 1.15, 160)
    covered = np.abs(distances - distances.mean()) <= 1.96 * errors
    assert 0.9 <= covered.mean() <= 0.99, "95 %, within three standard deviations of 160 tries"
    assert errors.mean() == pytest.approx(distances.std(ddof=1), rel=0.15)


def test_the_interval_of_equal_distributions_is_too_wide_and_not_too_narrow() -> None:
    distances, errors = tried(POPULATIONS["gaussian"], 1.0, 80)
    assert np.mean(np.abs(distances - distances.mean()) <= 1.96 * errors) >= 0.95
    assert 1.0 < errors.mean() / distances.std(ddof=1) < 1.6


def test_a_percentile_bootstrap_covers_nothing() -> None:
    draw, random = POPULATIONS["gaussian"], np.random.default_rng(4)
    reference = sampled(draw, 1.15)
    expected = np.mean([reference.distance(draw(random, COUNT)) for _ in range(40)])
    images = draw(random, COUNT)
    again = [reference.distance(images[random.integers(0, COUNT, COUNT)]) for _ in range(40)]
    distance, error = spread(reference, images)
    assert np.percentile(again, 2.5) > expected
    assert abs(distance - expected) <= 1.96 * error


def test_the_error_is_that_of_leaving_images_out() -> None:
    random = np.random.default_rng(5)
    images = random.standard_normal((250, 4)) @ random.standard_normal((4, 4))
    reference = FrechetTo(*moments(random.standard_normal((300, 4)) + 0.5))
    left = np.array([reference.distance(np.delete(images, n, axis=0)) for n in range(len(images))])
    jackknife = np.sqrt((len(left) - 1) * left.var())
    assert spread(reference, images)[1] == pytest.approx(jackknife, rel=0.02)


def test_the_distance_is_torch_fidelitys() -> None:
    random = np.random.default_rng(6)
    sets = [torch.from_numpy(random.standard_normal((90, 7)) @ random.standard_normal((7, 7))) for _ in range(2)]
    theirs = fid_statistics_to_metric(*(fid_features_to_statistics(features) for features in sets), verbose=False)
    ours = FrechetTo(*moments(sets[1].numpy())).distance(sets[0].numpy())
    assert ours == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-9)


def test_order_changes_neither_distance_nor_error_and_the_limit_little() -> None:
    draw, random = POPULATIONS["mixture"], np.random.default_rng(7)
    reference, images = sampled(draw, 1.15), draw(random, COUNT)
    mixed = images[random.permutation(COUNT)]
    distance, error = spread(reference, images)
    assert spread(reference, mixed) == pytest.approx((distance, error), rel=1e-9)
    assert reference.distance(mixed) == pytest.approx(distance, rel=1e-9)
    limit, other = reference.extrapolated(images, 0), reference.extrapolated(mixed, 0)
    assert limit is not None and other is not None and abs(limit - other) < 0.5 * error
    assert reference.extrapolated(images, 0) == limit


def test_features_that_never_vary_change_nothing() -> None:
    random = np.random.default_rng(8)
    images, real = random.standard_normal((2, 300, 3)) * [[[1.0]], [[1.2]]]
    padded = [np.concatenate([features, np.full((300, 2), 0.25)], axis=1) for features in (images, real)]
    plain, wide = FrechetTo(*moments(real)), FrechetTo(*moments(padded[1]))
    assert spread(wide, padded[0]) == pytest.approx(spread(plain, images), rel=1e-6)


def test_a_difference_from_the_same_noise_scatters_as_its_influences_do() -> None:
    draw, random = POPULATIONS["gaussian"], np.random.default_rng(11)
    reference, rows = sampled(draw, 1.15), []
    for _ in range(100):
        images = draw(random, 1000)
        worse = images * 0.98 + 0.02 * random.standard_normal(images.shape)
        each = reference.influence(worse) - reference.influence(images)
        difference = reference.distance(worse) - reference.distance(images)
        rows.append((difference, each.std(ddof=1) / np.sqrt(len(each)), spread(reference, worse)[1]))
    differences, errors, alone = np.array(rows).T
    assert 0.87 <= np.mean(np.abs(differences - differences.mean()) <= 1.96 * errors) <= 1.0
    assert errors.mean() == pytest.approx(differences.std(ddof=1), rel=0.25) and errors.mean() < alone.mean() / 3


def test_the_limit_is_the_planted_distance() -> None:
    scales, shift, dims, repeats = np.geomspace(0.5, 2, 32), 0.1, 32, 12
    reference = FrechetTo(np.full(dims, shift), np.eye(dims))
    planted = dims * shift**2 + np.square(scales - 1).sum()  # of Gaussians with diagonal covariances
    random = np.random.default_rng(9)
    sets = [random.standard_normal((COUNT, dims)) * scales for _ in range(repeats)]
    limits = np.array([reference.extrapolated(images, 0) or 0.0 for images in sets])
    distances, errors = np.array([spread(reference, images) for images in sets]).T
    bias = distances.mean() - planted
    assert bias > 5 * abs(limits.mean() - planted), "FD of 2,000 images is too great, FD-inf is not"
    assert abs(limits.mean() - planted) < 2.5 * errors.mean() / np.sqrt(repeats)
    assert np.sum(np.abs(limits - planted) <= 1.96 * errors) >= 10


@pytest.mark.parametrize(("count", "there"), [(31, False), (32, True)])
def test_too_few_images_have_no_limit(count: int, there: bool) -> None:
    images = np.random.default_rng(10).standard_normal((count, 4))
    assert (FrechetTo(np.zeros(4), np.eye(4)).extrapolated(images, 0) is not None) is there
