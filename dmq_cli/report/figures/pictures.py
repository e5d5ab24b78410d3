"""Strips of images as PNG inside the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Pixels = NDArray[Any]
_SIZE = 96  # page pixels of an image; larger ones are made that small
_WIDTH = 816  # page pixels that a page of full width leaves beside the names of the rows
_FACTORS = (16, 8, 4, 2)


def fitting(images: Pixels) -> Pixels:
    """The first of these images (N, H, W, C), as many as fit beside each other on a page."""
    height, width = images.shape[1:3]
    shown = width * _SIZE / height if height > _SIZE else width
    return images[: max(1, int(_WIDTH // ((shown + 1) * zoom(height))))]


def zoom(height: int) -> int:
    """How many page pixels a pixel of an image of this height takes, across and down: about 96 for the image."""
    return max(1, round(_SIZE / height))


def strip(images: Pixels) -> tuple[str, int, int]:
    """Images (N, H, W, C) uint8 side by side as the data URI of a PNG, and the width and height to show it at, in page pixels."""
    height = images.shape[1]
    joined = np.concatenate([np.pad(image, ((0, 0), (0, 1), (0, 0)), constant_values=255) for image in images], axis=1)
    picture = Image.fromarray(joined.squeeze(-1) if joined.shape[-1] == 1 else joined)
    if height > _SIZE:
        picture = picture.resize((round(picture.width * _SIZE / height), _SIZE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    source = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
    times = zoom(picture.height)
    return source, picture.width * times, picture.height * times


def amplified(full: Pixels, changed: Pixels, factor: int) -> Pixels:
    """|other - full| x factor as an image of its own: black where they agree."""
    difference: Pixels = np.clip(np.abs(changed.astype(int) - full.astype(int)) * factor, 0, 255).astype(np.uint8)
    return difference


def factor(pairs: Iterable[tuple[Pixels, Pixels]]) -> int:
    """The greatest of 16, 8, 4, 2, 1 at which 99 % of all differences still fit into 255."""
    sizes = [np.abs(a.astype(int) - b.astype(int)).ravel() for a, b in pairs]
    high = float(np.quantile(np.concatenate(sizes), 0.99)) if sizes else 0.0
    return next((candidate for candidate in _FACTORS if high * candidate <= 255), 1)
