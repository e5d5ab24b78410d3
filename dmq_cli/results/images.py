"""Write and read sampled images, or samples of other shapes, and draw grids of images."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError, NumericsError
from dmq_cli.metrics import to_uint8
from dmq_cli.store.files import aside

Pixels = NDArray[np.uint8]
"""Images, uint8 (N, H, W, C); float32 (N, ...) of samples that are none."""
FILE = "images.npz"
_MEMBER = "arr_0.npy"
_SIZE = 96  # pixels of an image in a grid


def pixels_of(samples: Tensor, rounding: str) -> Pixels:
    """Convert samples to what is stored: images (B, C, H, W) in [-1, 1] to uint8 (B, H, W, C), others to float32.

    Raises NumericsError for NaN and infinity, ConfigError as `to_uint8`.
    """
    if samples.dim() == 4:
        stored = to_uint8(samples, rounding).permute(0, 2, 3, 1)
    elif bool(samples.isfinite().all()):
        stored = samples.float()
    else:
        raise NumericsError(
            "Samples to evaluate must be finite, but some values are NaN or infinite; look at the sampler."
        )
    pixels: Pixels = stored.cpu().numpy()
    return pixels


def are_pictures(pixels: NDArray[Any]) -> bool:
    """Whether they are images that can be drawn: grey or RGB."""
    return pixels.ndim == 4 and pixels.shape[3] in (1, 3)


def write_chunk(file: Path, samples: Tensor, rounding: str) -> None:
    """Write samples, as `pixels_of` converts them, to a .npy, aside and renamed."""
    with aside(file) as scratch, scratch.open("wb") as handle:
        np.save(handle, pixels_of(samples, rounding), allow_pickle=False)


def save_images(folder: Path, parts: Sequence[NDArray[Any]]) -> None:
    """Write parts, joined along their first axis, as images.npz: `arr_0`, of images uint8 (N, H, W, C), the layout that ADM's
    evaluator reads. The same bytes as numpy.savez, but of memory-mapped parts only one is in memory.
    """
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    header = {"descr": np.lib.format.dtype_to_descr(parts[0].dtype), "fortran_order": False, "shape": shape}
    with (
        aside(folder / FILE) as scratch,
        zipfile.ZipFile(scratch, "w", zipfile.ZIP_STORED) as archive,
        archive.open(_MEMBER, "w", force_zip64=True) as handle,
    ):
        np.lib.format.write_array_header_1_0(handle, header)
        for part in parts:
            handle.write(np.ascontiguousarray(part).data)


def write_arrays(file: Path, **arrays: NDArray[Any]) -> None:
    """Write an .npz of these arrays, aside and renamed."""
    with aside(file) as scratch, scratch.open("wb") as handle:
        np.savez(handle, **arrays)  # type: ignore[arg-type]  # its stub takes them for allow_pickle


def load_images(folder: Path) -> Pixels:
    """Map all images of an artifact into memory, see Pixels: only what is read of them is loaded, and changes stay in memory.

    Raises ArtifactCorruptError for another file.
    """
    file = folder / FILE
    try:
        images = _mapped(file)
    except Exception as error:  # zipfile, numpy and the OS each have their own
        raise ArtifactCorruptError(
            f"{file} could not be read as images ({error}); delete its folder and run again."
        ) from error
    if images.dtype != (np.uint8 if images.ndim == 4 else np.float32) or images.ndim < 2:
        raise ArtifactCorruptError(
            f"{file} holds {images.dtype} {images.shape} instead of uint8 images (N, H, W, C) or float32 samples of another shape;"
            " delete its folder and run again."
        )
    pixels: Pixels = images
    return pixels


def _mapped(file: Path) -> NDArray[Any]:
    """Map the array of an .npz; where it is compressed or in another order, read it."""
    with zipfile.ZipFile(file) as archive, archive.open(_MEMBER) as handle:
        if np.lib.format.read_magic(handle) != (1, 0):
            raise ValueError("a newer format")
        shape, by_columns, dtype = np.lib.format.read_array_header_1_0(handle)
        member = archive.getinfo(_MEMBER)
        if member.compress_type != zipfile.ZIP_STORED or by_columns:
            return np.asarray(np.load(file, allow_pickle=False)["arr_0"])
        start = _start_of(file, member) + handle.tell()
    return np.asarray(np.memmap(file, dtype, "c", start, shape))


def _start_of(file: Path, member: zipfile.ZipInfo) -> int:
    """The offset of a member's bytes, behind its local header, whose name and extra field have any length."""
    with file.open("rb") as handle:
        handle.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", handle.read(4))
    return member.header_offset + 30 + int(name) + int(extra)


def grid(rows: Mapping[str, Pixels], columns: int = 8) -> Image.Image:
    """Draw a row of pictures for each entry, with its name on the left; pictures from the same noise stand below each other.

    Small images are enlarged by a whole factor, to a height of about 96; larger ones keep their size.
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
