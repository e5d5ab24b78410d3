"""Small idx files in the layout of Fashion-MNIST, written by hand, and the reader told to expect them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.zoo import fashion

COUNTS = {"train": 60, "t10k": 40}


def idx(values: Tensor) -> bytes:
    """A tensor of bytes in the idx format (LeCun et al., the MNIST page): magic number, lengths, values."""
    lengths = b"".join(length.to_bytes(4, "big") for length in values.shape)
    return bytes([0, 0, 8, values.dim()]) + lengths + bytes(values.flatten().tolist())


def pictures(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Bright rectangles whose height tells the label: images (count, 28, 28) uint8, labels (count,)."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 10
    images = torch.zeros(count, 28, 28, dtype=torch.uint8)
    for image, label, left in zip(
        images, labels.tolist(), torch.randint(12, (count,), generator=generator), strict=True
    ):
        image[2 : 5 + 2 * label, left : left + 12] = 200
    return images, labels


def small_fashion(folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool = True) -> Path:
    """Write four files of 60 and 40 pictures and let the reader take them for the published ones."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, published in fashion.PARTS.items():
        count = COUNTS[published.prefix]
        images, labels = map(idx, pictures(count, seed=len(part)))
        for kind, content in (("images-idx3", images), ("labels-idx1", labels)):
            file = folder / f"{published.prefix}-{kind}-ubyte{'.gz' if packed else ''}"
            file.write_bytes(gzip.compress(content) if packed else content)
        sums = [hashlib.sha256(content).hexdigest() for content in (images, labels)]
        monkeypatch.setitem(fashion.PARTS, part, fashion.Published(published.prefix, count, *sums))
    return folder
