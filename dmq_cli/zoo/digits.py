"""The UCI handwritten digits that scikit-learn carries, as images of 16x16 or 32x32.

E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998 (the 1,797 test
images; 8x8, 17 grey levels). Resized here by bilinear interpolation and rounded to uint8; the mean of every 2x2 pixels of the
larger images is the smaller image, but for rounding.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from torch import Tensor


@functools.cache
def digit_images(size: int = 16) -> tuple[Tensor, Tensor]:
    """All images (1797, 1, size, size) uint8 and their labels (1797,) int64, in scikit-learn's order."""
    from sklearn.datasets import load_digits

    data = load_digits()
    small = torch.from_numpy(np.asarray(data.images, dtype=np.float32))[:, None] * (255.0 / 16.0)
    large = torch.nn.functional.interpolate(small, size=(size, size), mode="bilinear", align_corners=False)
    return large.round().clamp(0, 255).to(torch.uint8), torch.from_numpy(np.asarray(data.target, dtype=np.int64))


def to_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1.0


def split(num_images: int, held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """A shuffled split: indices to train on, and the `held_out` fraction kept away."""
    order = torch.randperm(num_images, generator=torch.Generator().manual_seed(seed))
    count = round(num_images * held_out)
    return order[count:], order[:count]
