from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics import mean_interval
from dmq_cli.metrics import pairs as module
from dmq_cli.metrics.psnr import PSNR_CAP
from tests.metrics.helpers import paired


def psnr(a: Any, b: Any) -> float:
    return paired(a, b).numbers["psnr"]


def ssim(a: Any, b: Any) -> float:
    return paired(a, b).numbers["ssim"]


def test_by_hand() -> None:
    black = np.zeros((2, 2, 2, 1), np.uint8)
    other = black.copy()
    other[0] = 255  # as wrong as can be: 0 dB
    other[1, 0, 0, 0] = 10  # mean squared error 100 / 4 = 25
    assert psnr(other, black) == pytest.approx((0 + 10 * math.log10(255**2 / 25)) / 2, abs=1e-12)


def test_one_grey_level_everywhere() -> None:
    grey = torch.full((3, 4, 4, 3), 7, dtype=torch.uint8)
    assert psnr(grey + 1, grey) == pytest.approx(48.1308036, abs=1e-6)


def test_identical_images_count_as_the_cap() -> None:
    grey = np.full((2, 4, 4, 1), 7, np.uint8)
    half = grey.copy()
    half[1] += 1
    assert psnr(grey, grey) == PSNR_CAP == 100.0
    assert psnr(half, grey) == pytest.approx((100 + 48.1308036) / 2, abs=1e-6)


def test_against_plain_python() -> None:
    a, b = np.random.default_rng(0).integers(0, 256, (2, 5, 3, 4, 3), dtype=np.uint8)
    each = []
    for x, y in zip(a, b, strict=True):
        squares = [(int(p) - int(q)) ** 2 for p, q in zip(x.ravel(), y.ravel(), strict=True)]
        each.append(20 * math.log10(255) - 10 * math.log10(sum(squares) / len(squares)))
    assert psnr(a, b) == pytest.approx(sum(each) / 5, abs=1e-12) == psnr(torch.from_numpy(b), torch.from_numpy(a))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros((3, 4, 4, 1), np.uint8)),
        (np.zeros((2, 4, 4, 1), np.float32), np.zeros((2, 4, 4, 1), np.uint8)),
        (np.zeros((0, 4, 4, 1), np.uint8), np.zeros((0, 4, 4, 1), np.uint8)),
    ],
)
def test_sets_that_do_not_pair(a: Any, b: Any) -> None:
    with pytest.raises(EvaluationError, match="give both sets from the same seeds"):
        psnr(a, b)


def pair(count: int, side: int, channels: int, low: int = 0, high: int = 256) -> tuple[Any, Any]:
    random = np.random.default_rng(1)
    a = random.integers(low, high, (count, side, side + 3, channels), dtype=np.uint8)
    return a, (a * 0.6 + random.integers(0, 100, a.shape)).clip(low, high - 1).astype(np.uint8)


@pytest.mark.parametrize(("side", "channels", "low"), [(16, 1, 0), (11, 3, 0), (25, 3, 0), (24, 3, 245)])
def test_against_scikit_image(side: int, channels: int, low: int) -> None:
    metrics = pytest.importorskip("skimage.metrics", reason="scikit-image is not installed")
    a, b = pair(4, side, channels, low)
    influences = paired(a, b).influences
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "channel_axis": -1}
    for number, (x, y) in enumerate(zip(a, b, strict=True)):
        wanted = metrics.structural_similarity(x, y, data_range=255, **options)
        assert float(influences["ssim"][number]) == pytest.approx(wanted, abs=1e-6 if low == 0 else 1e-3)
        wanted = metrics.peak_signal_noise_ratio(x, y, data_range=255)
        assert float(influences["psnr"][number]) == pytest.approx(wanted, abs=1e-9)


def test_the_mean_of_every_pair_is_the_number() -> None:
    a, b = pair(5, 16, 1)
    each, result = paired(a, b).influences, paired(torch.from_numpy(a), b)
    mean = result.numbers
    assert set(each) == set(mean) == {"psnr", "ssim"} and each["ssim"].shape == (5,)
    assert result.intervals["psnr"] == mean_interval(each["psnr"])
    assert all(mean[name] == pytest.approx(float(each[name].double().mean()), abs=1e-12) for name in each)


def test_ssim_is_one_for_the_same_image_and_falls_with_noise() -> None:
    a, _ = pair(2, 20, 3)
    noise = np.random.default_rng(2).normal(0, 1, a.shape)
    scores = [ssim((a + sigma * noise).clip(0, 255).astype(np.uint8), a) for sigma in (0, 20, 60)]
    assert scores[0] == pytest.approx(1, abs=1e-6) and scores == sorted(scores, reverse=True) and scores[2] < 0.9


@pytest.mark.parametrize("values", [1, 600, 10**9])
def test_pairs_stay_pairs_in_any_batches_and_any_order(values: int, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = pair(7, 16, 1)
    order = np.random.default_rng(3).permutation(7)
    plain = paired(a, b).influences
    monkeypatch.setattr(module, "_VALUES", values)
    mixed = paired(a[order], b[order]).influences
    for name in plain:
        torch.testing.assert_close(mixed[name], plain[name][order], rtol=0, atol=1e-6)


def test_images_below_the_window_have_no_ssim() -> None:
    a, b = pair(2, 10, 1)
    assert set(paired(a, b).numbers) == {"psnr"}
