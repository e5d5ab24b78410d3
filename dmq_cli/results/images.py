"""Sampled images on disk, and grids for people to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.metrics import to_uint8
from dmq_cli.store.files import aside

Pixels = NDArray[np.uint8]
FILE = "images.npz"
_SIZE = 96  # pixels of an image in a grid


def write_chunk(file: Path, images: Tensor, rounding: str) -> None:
    """Images (B, C, H, W) in [-1, 1] to a .npy of uint8 (B, H, W, C), written aside and renamed."""
    with aside(file) as scratch, scratch.open("wb") as handle:
        np.save(handle, to_uint8(images, rounding).permute(0, 2, 3, 1).cpu().numpy(), allow_pickle=False)


def save_images(folder: Path, chunks: Sequence[Path]) -> None:
    """Join chunks into images.npz: `arr_0` uint8 (N, H, W, C), the layout that ADM's evaluator reads."""
    write_arrays(folder / FILE, arr_0=np.concatenate([np.load(chunk, allow_pickle=False) for chunk in chunks]))


def write_arrays(file: Path, **arrays: NDArray[Any]) -> None:
    """An .npz of these arrays, written aside and renamed."""
    with aside(file) as scratch, scratch.open("wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]  # its stub takes them for allow_pickle


def load_images(folder: Path) -> Pixels:
    """All images of an artifact, uint8 (N, H, W, C). Raises ArtifactCorruptError if the file is not what it should be."""
    file = folder / FILE
    try:
        with np.load(file, allow_pickle=False) as archive:
            images = archive["arr_0"]
    except Exception as error:  # zipfile, numpy and the OS each have their own
        raise ArtifactCorruptError(
            f"{file} could not be read as images ({error}); delete its folder and run again."
        ) from error
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ArtifactCorruptError(
            f"{file} holds {images.dtype} {images.shape} instead of uint8 images (N, H, W, C); delete its folder and run again."
        )
    found: Pixels = images
    return found


def grid(rows: Mapping[str, Pixels], columns: int = 8) -> Image.Image:
    """One row of pictures for each entry, the same noise below the same noise, the entry's name on the left.

    A pixel of small images becomes a square of pixels, so that an image is about 96 high; larger images are as they are.
    """
    font = ImageFont.load_default(size=15)
    height, width = next(iter(rows.values())).shape[1:3]
    zoom = max(1, round(_SIZE / height))
    cell_w, cell_h = width * zoom + 2, height * zoom + 2
    label = 16 + max(int(font.getlength(name)) for name in rows)
    picture = Image.new("RGB", (label + columns * cell_w, len(rows) * cell_h), "white")
    draw = ImageDraw.Draw(picture)
    for row, (name, images) in enumerate(rows.items()):
        draw.text((6, row * cell_h + cell_h // 2), name, fill="black", anchor="lm", font=font)
        for column, image in enumerate(images[:columns]):
            picture.paste(_cell(image, (width * zoom, height * zoom)), (label + column * cell_w, row * cell_h))
    return picture


def _cell(image: Any, size: tuple[int, int]) -> Image.Image:
    return (
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
        .convert("RGB")
        .resize(size, Image.Resampling.NEAREST)
    )
