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
_SIZE = 50  # pixels of an image in a strip, for images that are larger: 16 fit beside each other
_WIDTH = 816  # page pixels that a page of full width leaves beside the names of the rows
_FACTORS = (16, 8, 4, 2)


def strip(images: Pixels) -> tuple[str, int, int]:
    """Images (N, H, W, C) uint8 side by side as the data URI of a PNG, and the width and height to show it at, in page pixels."""
    height = images.shape[1]
    joined = np.concatenate([np.pad(image, ((0, 0), (0, 1), (0, 0)), constant_values=255) for image in images], axis=1)
    picture = Image.fromarray(joined.squeeze(-1) if joined.shape[-1] == 1 else joined)
    if height > _SIZE:
        picture = picture.resize((round(picture.width * _SIZE / height), _SIZE), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    zoom = max(1, min(round(2 * 48 / height), 2 * _WIDTH // picture.width) / 2)
    source = f"data:image/png;base64,{base64.b64encode(out.getvalue()).decode('ascii')}"
    return source, int(picture.width * zoom), int(picture.height * zoom)


def amplified(full: Pixels, other: Pixels, factor: int) -> Pixels:
    """|other - full| x factor as an image of its own: black where they agree."""
    found: Pixels = np.clip(np.abs(other.astype(int) - full.astype(int)) * factor, 0, 255).astype(np.uint8)
    return found


def factor(pairs: Iterable[tuple[Pixels, Pixels]]) -> int:
    """The greatest of 16, 8, 4, 2, 1 at which 99 % of all differences still fit into 255."""
    sizes = [np.abs(a.astype(int) - b.astype(int)).ravel() for a, b in pairs]
    high = float(np.quantile(np.concatenate(sizes), 0.99)) if sizes else 0.0
    return next((one for one in _FACTORS if high * one <= 255), 1)
