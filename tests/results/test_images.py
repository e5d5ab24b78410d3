"""Pictures for people: every pixel of a small image is a square, so that it can be looked at."""

from __future__ import annotations

import numpy as np
import pytest

from dmq_cli.results.images import grid


@pytest.mark.parametrize(("size", "zoom"), [(16, 6), (32, 3), (64, 2), (256, 1)])
def test_a_grid_shows_small_images_large_and_loses_nothing(size: int, zoom: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, size, size, 1)).astype(np.uint8)
    picture = np.asarray(grid({"full precision": images, "quantized": images[::-1]}))
    assert picture.shape[0] == 2 * (size * zoom + 2)
    left = picture.shape[1] - 8 * (size * zoom + 2)
    shown = [picture[: size * zoom, left + k * (size * zoom + 2) :][:, : size * zoom] for k in range(8)]
    assert all(
        (tile == np.kron(image, np.ones((zoom, zoom, 1)))).all() for tile, image in zip(shown, images, strict=False)
    )
