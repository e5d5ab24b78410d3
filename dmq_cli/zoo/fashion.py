"""Fashion-MNIST as images of 32x32, from the idx files that the user has; nothing is downloaded.

H. Xiao, K. Rasul, R. Vollgraf: Fashion-MNIST, arXiv 1708.07747 (Zalando SE, MIT licence): 60,000 training and 10,000 test images of
28x28, ten kinds of clothes. Two black pixels are added on each side, so that a network can halve the sides five times.
"""

from __future__ import annotations

import functools
import gzip
import hashlib
import math
import struct
import zlib
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor

from dmq_cli.errors import EvaluationError, MissingWeightsError
from dmq_cli.obtain import fashion_file, fashion_folder, fashion_missing

Part = Literal["train", "test"]
SIZE = 32  # pixels, with the border
_SIDE = 28
_BORDER = (SIZE - _SIDE) // 2


class Published(NamedTuple):
    """What a part's files must be. prefix: of their names; images, labels: sha256 of each unpacked, header included."""

    prefix: str
    number: int
    images: str
    labels: str


PARTS = {
    "train": Published(
        "train",
        60_000,
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    ),
    "test": Published(
        "t10k",
        10_000,
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
}


@functools.lru_cache(maxsize=2)
def fashion_images(part: Part, path: str | None = None) -> tuple[Tensor, Tensor]:
    """Read a part of Fashion-MNIST: images (N, 1, 32, 32) uint8 and labels (N,) int64 in 0..9, in the order of the files.

    path: the folder of the idx files, packed with gzip or not; None: where Debian's package puts them. Raises MissingWeightsError where
    they are not there and EvaluationError where they are not the published ones.
    """
    folder, published = find_fashion(path), PARTS[part]
    shape = (published.number, _SIDE, _SIDE)
    images = _read_idx(folder, f"{published.prefix}-images-idx3-ubyte", shape, published.images)
    labels = _read_idx(folder, f"{published.prefix}-labels-idx1-ubyte", shape[:1], published.labels)
    return torch.nn.functional.pad(images[:, None], (_BORDER,) * 4), labels.long()


def find_fashion(path: str | Path | None = None) -> Path:
    """The folder of the idx files: `path`, or Debian's. Raises MissingWeightsError where one of the four is not there."""
    folder = fashion_folder(None if path is None else str(path))
    if sentence := fashion_missing(folder):
        raise MissingWeightsError(sentence)
    return folder


def _read_idx(folder: Path, name: str, shape: tuple[int, ...], sha256: str) -> Tensor:
    """Read an idx file of unsigned bytes in this shape: two zeros, the type 8, the number of axes, their lengths big-endian."""
    file = fashion_file(folder, name) or folder / name
    header = struct.pack(f">2xBB{len(shape)}I", 8, len(shape), *shape)
    content = _unpacked(file, len(header) + math.prod(shape) + 1)
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        _refuse(file, f"its header and length are not those of {'x'.join(map(str, shape))} bytes")
    if (actual := hashlib.sha256(content).hexdigest()) != sha256:
        _refuse(file, f"its content has the sha256 {actual} and not {sha256}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape).copy())


def _unpacked(file: Path, most: int) -> bytes:
    """The first bytes of a file, at most `most`, so that a damaged archive cannot fill the memory."""
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            return stream.read(most)
    except (OSError, EOFError, zlib.error) as error:
        _refuse(file, f"it cannot be unpacked ({' '.join(str(error).split())})")


def _refuse(file: Path, why: str) -> NoReturn:
    raise EvaluationError(
        f"Fashion-MNIST was to be read from {file}, but {why}; give the published files as data.path=FOLDER, or install them with:"
        " apt install dataset-fashion-mnist."
    )
