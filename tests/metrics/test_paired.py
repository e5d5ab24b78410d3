from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics import PSNR_CAP, psnr


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
