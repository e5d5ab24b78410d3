from __future__ import annotations

import itertools
import statistics
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from dmq_cli.correct import Tac, solve_gain
from dmq_cli.errors import ConfigError, NumericsError
from tests.tiny import one_sentence

WIDE = (-1e9, 1e9)


def tac(**changes: Any) -> Tac:
    return Tac(**{"seeds": "0-3", "clamp": WIDE, "lambda1": 0.5, "lambda2": 0.1, "k_threshold": 1.0, **changes})


def estimates(samples: int = 3) -> tuple[Tensor, Tensor]:
    """(quantized, full): gain 0.8 and noise; full stays clear of 0, where quotients have a floor."""
    generator = torch.Generator().manual_seed(0)
    full = torch.randn(samples, 2, 4, 4, generator=generator, dtype=torch.float64)
    full = full + 0.1 * full.sign()
    return 0.8 * full + 0.3 * torch.randn(full.shape, generator=generator, dtype=torch.float64), full


def loss(k: float, quantized: np.ndarray[Any, Any], full: np.ndarray[Any, Any], config: Tac, channel: int) -> float:
    """N times eq. 12, or with the relative term summed, for one channel of one sample; mask of eq. 17-18."""
    n = full.size
    tau = config.k_threshold * np.abs(full).sum() / n
    q, e = quantized[channel].ravel(), full[channel].ravel()
    chosen = [i for i in range(len(e)) if (e[i] if config.mask == "one_sided" else abs(e[i])) > tau]
    squared = sum((k * q[i] - e[i]) ** 2 for i in chosen) / n
    relative = sum(((k * q[i] - e[i]) / e[i]) ** 2 for i in chosen) / (n if config.relative_term == "mean" else 1)
    return float(n * ((1 - config.lambda1) * squared + config.lambda1 * relative + config.lambda2 * (k - 1) ** 2))


def second_reading(q: np.ndarray[Any, Any], r: np.ndarray[Any, Any], lambda1: float, lambda2: float) -> float:
    """K of one channel of one sample as OptiSys-ZJU/segquant @ 58b69c1 solves it: every pixel counts, n those of all channels."""
    n, eps = 2 * q.size, 1e-7
    above = (1 - lambda1) * (q * r).sum() + lambda1 * n * (q / (r + eps)).sum() + lambda2 * n
    below = (1 - lambda1) * (q * q).sum() + lambda1 * n * (q * q / (r * r + eps)).sum() + lambda2 * n
    return float(above / below + eps)


@pytest.mark.parametrize(("lambda1", "lambda2"), [(0.5, 0.1), (0.8, 0.1), (0.0, 1.0), (1.0, 0.0)])
def test_another_implementation_has_the_same_gain(lambda1: float, lambda2: float) -> None:
    """Its mask comes after the solution, and it averages K of the samples; both are options here."""
    config = tac(lambda1=lambda1, lambda2=lambda2, k_threshold=0.0, pooling="mean")
    quantized, full = estimates(samples=5)
    expected = [
        statistics.fmean(second_reading(q[channel], r[channel], lambda1, lambda2) for q, r in zip(*pair, strict=True))
        for pair in [(quantized.numpy(), full.numpy())]
        for channel in range(2)
    ]
    torch.testing.assert_close(solve_gain(config, quantized, full), torch.tensor(expected).double(), rtol=1e-5, atol=0)


OPTIONS = list(itertools.product(["sum", "mean"], ["two_sided", "one_sided"], ["samples", "mean"], [0.0, 0.4, 1.0]))


def minimum(function: Any) -> float:
    return float(minimize_scalar(function, bracket=(0.0, 2.0), tol=1e-12).x)


@pytest.mark.parametrize(("relative_term", "mask", "pooling", "lambda1"), OPTIONS)
def test_the_closed_form_is_the_minimum_of_the_loss(
    relative_term: str, mask: str, pooling: str, lambda1: float
) -> None:
    config = tac(relative_term=relative_term, mask=mask, pooling=pooling, lambda1=lambda1, lambda2=0.2, k_threshold=0.7)
    quantized, full = estimates()
    gains = solve_gain(config, quantized, full)
    assert gains.shape == (2,)
    pairs = list(zip(quantized.numpy(), full.numpy(), strict=True))
    for channel in range(2):
        if pooling == "samples":
            expected = minimum(lambda k, c=channel: sum(loss(k, q, e, config, c) for q, e in pairs))
        else:
            expected = statistics.mean(
                [minimum(lambda k, q=q, e=e, c=channel: loss(k, q, e, config, c)) for q, e in pairs]
            )
        assert float(gains[channel]) == pytest.approx(expected, rel=1e-6)


def test_every_option_changes_the_gain() -> None:
    pair = estimates()
    base = solve_gain(tac(), *pair)
    changes: list[dict[str, Any]] = [
        {"relative_term": "mean"}, {"mask": "one_sided"}, {"pooling": "mean"}, {"lambda1": 0.2},
        {"lambda2": 3.0}, {"k_threshold": 0.3}, {"pull": "data"},
    ]  # fmt: skip
    assert all(not torch.allclose(solve_gain(tac(**change), *pair), base, rtol=1e-4) for change in changes)


@pytest.mark.parametrize(("mask", "pooling"), list(itertools.product(["two_sided", "one_sided"], ["samples", "mean"])))
def test_a_planted_gain_is_recovered(mask: str, pooling: str) -> None:
    _, full = estimates(5)
    planted = torch.tensor([0.6, 1.7], dtype=torch.float64)
    quantized = full / planted[:, None, None]
    for lambda1, term in itertools.product([0.0, 0.5, 1.0], ["sum", "mean"]):
        config = tac(lambda1=lambda1, lambda2=0.0, mask=mask, pooling=pooling, relative_term=term)
        assert torch.allclose(solve_gain(config, quantized, full), planted, rtol=0, atol=1e-6)
    pulled = solve_gain(tac(lambda2=1e9), quantized, full)
    assert torch.allclose(pulled, torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)


@pytest.mark.parametrize("lambda1", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("term", ["sum", "mean"])
def test_a_pull_in_units_of_the_data_is_the_same_at_any_size(lambda1: float, term: str) -> None:
    """The estimates are tiled to 2 and 4 times the side: the printed pull loses weight, as the sums grow faster than N."""
    quantized, full = estimates()
    planted = torch.tensor([0.6, 1.7], dtype=torch.float64)
    gains: dict[str, list[Tensor]] = {}
    for pull, times in itertools.product(("data", "printed"), (1, 2, 4)):
        config = tac(pull=pull, lambda1=lambda1, relative_term=term, lambda2=0.3)
        tiled = full.tile(1, 1, times, times)
        gains.setdefault(pull, []).append(solve_gain(config, quantized.tile(1, 1, times, times), tiled))
        # with quantized = full / g every sum over the mask has the same factor: K = (1/g + lambda2) / (1/g^2 + lambda2)
        exact = (1 / planted + 0.3) / (1 / planted**2 + 0.3)
        again = solve_gain(config, tiled / planted[:, None, None], tiled)
        assert torch.allclose(again, exact, rtol=1e-9) == (pull == "data")
    if (
        lambda1 != 0.5 or term == "mean"
    ):  # as printed, the sum of the relative term gains weight beside the absolute one
        assert all(torch.allclose(gain, gains["data"][0], rtol=1e-9) for gain in gains["data"])
    assert lambda1 == 0 or term == "mean" or not torch.allclose(gains["printed"][0], gains["printed"][2], rtol=1e-3)


def test_the_gain_is_clamped() -> None:
    _, full = estimates()
    quantized = full / torch.tensor([0.01, 100.0], dtype=torch.float64)[:, None, None]
    assert solve_gain(tac(lambda2=0.0, clamp=(0.2, 5.0)), quantized, full).tolist() == [0.2, 5.0]


@pytest.mark.parametrize("lambda1", [0.0, 0.9])
def test_how_near_to_zero_a_pixel_is_does_not_matter(lambda1: float) -> None:
    """Without a mask the quotient of a pixel at 0 is that of a pixel at the floor, 1e-3 of the mean size."""
    quantized, full = estimates()
    config = tac(k_threshold=0.0, lambda1=lambda1)
    gains = []
    for tiny in (1e-9, 1e-30):
        full[:, :, 0, 0] = tiny
        gains.append(solve_gain(config, quantized, full))
    floor = 1e-3 * full.abs().mean()
    full[:, :, 0, 0] = floor * (1 + 1e-9)
    gains.append(solve_gain(config, quantized, full))
    assert torch.allclose(gains[0], gains[1], rtol=1e-6) and torch.allclose(gains[0], gains[2], rtol=1e-2)
    full[:, :, 0, 0] = 0.0
    assert bool(solve_gain(config, quantized, full).isfinite().all())


def test_a_gain_that_is_not_finite_is_an_error() -> None:
    quantized, full = estimates()
    with pytest.raises(
        NumericsError, match=r"noise gain K at call 7 is not finite: .* give correct\.lambda2 a positive"
    ) as caught:
        solve_gain(tac(k_threshold=1e6, lambda2=0.0), quantized, full, 7)
    one_sentence(caught.value)
    assert solve_gain(tac(k_threshold=1e6), quantized, full).tolist() == [1.0, 1.0]  # only lambda2 is left
    with pytest.raises(NumericsError, match="the full-precision network's estimate has NaN or infinity") as caught:
        solve_gain(tac(), quantized, full / 0.0 * 0.0, 7)
    one_sentence(caught.value)


@pytest.mark.parametrize("pull", ["printed", "data"])
@pytest.mark.parametrize("pooling", ["samples", "mean"])
@pytest.mark.parametrize("relative_term", ["sum", "mean"])
def test_an_estimate_of_zeros_has_the_gain_that_the_pull_says(pooling: str, relative_term: str, pull: str) -> None:
    """A network whose last layer is zero: no pixel is above the mask of eq. 18, so eq. 19 is lambda2 / lambda2."""
    zeros = torch.zeros(3, 2, 4, 4, dtype=torch.float64)
    config = tac(pooling=pooling, relative_term=relative_term, pull=pull)
    assert solve_gain(config, zeros, zeros).tolist() == [1.0, 1.0]
    assert solve_gain(config, zeros + 0.1, zeros).tolist() == [1.0, 1.0]
    with pytest.raises(NumericsError, match=r"give correct\.lambda2 a positive value") as caught:
        solve_gain(tac(lambda2=0.0), zeros, zeros)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"lambda1": -0.1}, {"lambda1": 1.1}, {"lambda2": -1.0}, {"k_threshold": -1.0}, {"mask": "both"},
        {"relative_term": "avg"}, {"pooling": "batch"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="correct") as caught:
        tac(**changes)
    assert next(iter(changes)) in one_sentence(caught.value)
