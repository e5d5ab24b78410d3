"""The interval of every kind of number, against loops by hand, published values and simulations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.metrics import difference_interval, extract, fraction_interval, mean_interval
from dmq_cli.metrics.kid import kid_variance
from tests.metrics.helpers import digits, measured, noisy, protocol


def normal(count: int, seed: int, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=generator, dtype=torch.float64) + shift


def kid(images: Tensor, reference: Tensor) -> tuple[float, list[float]]:
    plan = protocol(num_images=len(images), metrics=("kid",), kid={"subset_size": 50, "subsets": 10})
    result = measured({"features": images}, {"features": reference}, plan)
    return result.numbers["kid"], result.intervals["kid"]


def test_kid_of_equal_distributions_covers_zero() -> None:
    results = [kid(normal(150, 2 * n), normal(150, 2 * n + 1)) for n in range(80)]
    assert 0.88 <= np.mean([low <= 0 <= high for _, (low, high) in results]) < 1.0
    assert all(low < value < high for value, (low, high) in results)


def test_kid_covers_its_expectation_of_another_distribution() -> None:
    reference = normal(150, 0)
    results = [kid(normal(150, n + 1, shift=0.3), reference) for n in range(80)]
    values = np.array([value for value, _ in results])
    assert values.mean() > 0.1
    assert 0.88 <= np.mean([low <= values.mean() <= high for _, (low, high) in results]) <= 0.99


def test_kid_variance_by_hand() -> None:
    x, y = normal(7, 0)[:, :3], normal(5, 1)[:, :3]

    def kernel(a: Tensor, b: Tensor) -> float:
        return (float(a @ b) / 3 + 1) ** 3

    each = [
        sum(kernel(a, b) for m, b in enumerate(x) if m != n) / 6 - sum(kernel(a, b) for b in y) / 5
        for n, a in enumerate(x)
    ]
    assert kid_variance(x, y) == pytest.approx(4 * np.var(each, ddof=1) / 7, rel=1e-12)


def test_inception_score_has_the_t_interval_of_its_splits() -> None:
    logits = {"logits": normal(40, 0) * 3}
    result = measured(logits, {}, protocol(num_images=40, metrics=("is",), **{"is": {"splits": 4}}))
    score, spread = result.numbers["is"], result.numbers["is_std"]
    half = 3.182446 * spread / math.sqrt(3)  # t at 3 degrees of freedom; is_std is divided by 4 and not by 3
    assert result.intervals["is"] == pytest.approx([score - half, score + half], rel=1e-6) and spread > 0
    assert measured(logits, {}, protocol(num_images=40, metrics=("is",), **{"is": {"splits": 1}})).intervals == {}


@pytest.mark.parametrize(
    ("hits", "count", "interval"),
    [(8, 10, (0.4902, 0.9433)), (0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (81, 263, (0.2553, 0.3662))],
)
def test_fractions_have_wilsons_interval(hits: int, count: int, interval: tuple[float, float]) -> None:
    # the last is Newcombe's example (Statistics in Medicine 1998, Table I)
    assert fraction_interval(hits / count, count) == pytest.approx(interval, abs=5e-5)


def test_a_mean_over_images() -> None:
    assert mean_interval(torch.tensor([1.0, 2.0, 3.0, 6.0])) == pytest.approx(
        [3 - 3.182446 * math.sqrt(14 / 3) / 2, 3 + 3.182446 * math.sqrt(14 / 3) / 2]
    )


@pytest.mark.parametrize("count", [3, 8, 40, 300])
def test_a_mean_over_few_images_is_covered_as_often_as_it_should(count: int) -> None:
    draws = torch.randn(1000, count, generator=torch.Generator().manual_seed(count))
    covered = sum(low <= 0 <= high for low, high in map(mean_interval, draws)) / len(draws)
    assert 0.93 < covered < 0.97  # three standard deviations of 0.95


def test_batches_and_order_do_not_change_intervals() -> None:
    images, plan = noisy(digits(0, 520), 30), protocol(num_images=520, metrics=("fd", "prc"))
    theirs = extract(digits(600, 1000), plan)
    order = np.random.default_rng(0).permutation(520)
    sets = [extract(images, plan, 520), extract(images, plan, 77), extract(images[order], plan, 77)]
    results = [measured(features, theirs, plan) for features in sets]
    assert set(results[0].intervals) == {"fd", "fd_inf", "precision"}
    assert results[0].numbers["fd_inf"] < results[0].numbers["fd"]
    for result in results[1:]:
        for key in ("fd", "precision"):
            assert result.intervals[key] == pytest.approx(results[0].intervals[key], rel=1e-3)
    limits = [result.intervals["fd_inf"] for result in results]
    assert limits[1] == pytest.approx(limits[0], rel=1e-3), "batches; another order draws other parts"
    assert limits[2] == pytest.approx(limits[0], rel=0.1)


def test_a_difference_has_the_interval_of_the_differences() -> None:
    influence, other = torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.ones(4)
    assert difference_interval(0.5, influence, other) == pytest.approx([0.5 - 2.116998, 0.5 + 2.116998], abs=1e-5)
    assert difference_interval(0.5, influence, influence) == [0.5, 0.5]


def test_what_was_not_measured_has_no_interval() -> None:
    plan = protocol(num_images=40, metrics=("fd", "prc"))
    result = measured({"features": normal(40, 0)}, {"features": normal(60, 1)}, plan)
    assert set(result.intervals) == {"fd", "precision"}, "recall has none, and FD-inf needs 64 images of 8 features"
    assert set(result.numbers) == {"fd", "precision", "recall"} and set(result.influences) == {"fd"}
