"""Folders of images, read in batches, and what is cut and scaled before they are compared.

The centre square is cut first, then scaled, as the loaders of openai/guided-diffusion and CompVis/latent-diffusion do. Scaling
is PIL's, which averages over all pixels that fall together (antialiased): `bicubic` (latent-diffusion) or `box`.
Filters that do not, as those of TensorFlow 1 and of OpenCV, move FID by whole points (Parmar et al., CVPR 2022, 2104.11222).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dmq_cli.errors import ConfigError, EvaluationError, nearest

Pixels = NDArray[np.uint8]
Size = tuple[int, int]
BATCH = 250
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
_GREY = ("1", "L", "I;16", "I;16B")
_COLOUR = ("RGB", "P")


@dataclass(frozen=True)
class Framing:
    """What is done to every image. crop: `none`, or `center`, the largest square in the middle. resize: the side that squares
    get, None: their own. resize_filter: PIL's `bicubic` or `box`. Raises ConfigError for other values.
    """

    crop: str = "none"
    resize: int | None = None
    resize_filter: str = "bicubic"

    def __post_init__(self) -> None:
        for what, value, known in (("crop", self.crop, ("none", "center")), ("filter", self.resize_filter, _FILTERS)):
            if value not in known:
                raise ConfigError(f"There is no {what} {value} of images.{nearest(value, known)}")
        if self.resize is not None and self.resize < 1:
            raise ConfigError(f"Images cannot be resized to {self.resize}; give at least 1.")

    def outcome(self, size: Size, name: str) -> Size:
        """The (width, height) that an image of `size` gets. Raises EvaluationError for a scaling that would distort it."""
        if self.crop == "center":
            size = (min(size),) * 2
        if self.resize is None:
            return size
        if size[0] != size[1]:
            raise EvaluationError(
                f"{name} was to be resized to {self.resize}x{self.resize}, but has {size[0]}x{size[1]} pixels and would be "
                "squeezed; cut its middle with --crop center."
            )
        return self.resize, self.resize

    def apply(self, image: Image.Image) -> Image.Image:
        """The image cut and scaled; the same object where there is nothing to do."""
        width, height = image.size
        side = min(width, height)
        if self.crop == "center" and width != height:
            left, top = (width - side) // 2, (height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if self.resize is not None and image.size != (self.resize, self.resize):
            image = image.resize((self.resize, self.resize), _FILTERS[self.resize_filter])
        return image


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images that are read as they are needed. name: where they are; formats: of the files; shape: (N, H, W, C) as framed;
    batches: all of them anew at every call, uint8 (at most BATCH, H, W, C), in order.
    """

    name: str
    formats: tuple[str, ...]
    shape: tuple[int, int, int, int]
    framing: Framing
    batches: Callable[[], Iterator[Pixels]]


def folder_source(folder: Path, framing: Framing, lossless: bool = False) -> ImageSource:
    """All images in a folder and below it, sorted by path. Grey where all are grey, otherwise RGB; 16 bits lose the lower 8.

    lossless: PNG only, as for samples: JPEG moves FID by whole points (2104.11222). Raises EvaluationError for no
    images, a format or a transparency that is not read, a file that cannot be read, and sizes that differ as framed.
    """
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.name[0] != ".")
    if not files:
        raise EvaluationError(
            f"Images were to be read from {folder}, but there is none in it; give a folder of PNG files."
        )
    seen = [_header(file, lossless) for file in files]
    sizes = [framing.outcome(size, str(file)) for file, (_, _, size) in zip(files, seen, strict=True)]
    _same(files, sizes)
    mode = "L" if all(one in _GREY for _, one, _ in seen) else "RGB"
    width, height = sizes[0]
    formats = tuple(sorted({one for one, _, _ in seen}))

    def batches() -> Iterator[Pixels]:
        for start in range(0, len(files), BATCH):
            yield _stack([framing.apply(_decoded(file, mode)) for file in files[start : start + BATCH]])

    return ImageSource(str(folder), formats, (len(files), height, width, len(mode)), framing, batches)


def array_source(name: str, images: Pixels, framing: Framing, kind: str = "npz") -> ImageSource:
    """Images that are in memory, uint8 (N, H, W, 1 or 3). kind: what stands for the format. Raises as `folder_source`."""
    count, height, width, channels = images.shape
    size = framing.outcome((width, height), name)

    def framed(image: Pixels) -> Image.Image:
        return framing.apply(Image.fromarray(image.squeeze(-1) if channels == 1 else image))

    def batches() -> Iterator[Pixels]:
        for start in range(0, count, BATCH):
            batch = images[start : start + BATCH]
            yield batch if size == (width, height) else _stack([framed(image) for image in batch])

    return ImageSource(name, (kind,), (count, size[1], size[0], channels), framing, batches)


def read_images(folder: Path) -> Pixels:
    """All PNG images of a folder as samples, uint8 (N, H, W, 1 or 3), sorted by path. Raises as `folder_source`."""
    return np.concatenate(list(folder_source(folder, Framing(), lossless=True).batches()))


def _header(file: Path, lossless: bool) -> tuple[str, str, Size]:
    """Format, mode and size, without decoding. Raises EvaluationError."""
    try:
        with Image.open(file) as image:
            found, mode, size = str(image.format), image.mode, image.size
    except (OSError, SyntaxError, ValueError) as error:  # PIL has no error of its own
        raise _unreadable(file, error) from error
    if lossless and found != "PNG":
        raise EvaluationError(
            f"{file} is {found}, which changes the pixels and with them every distance; write the samples as PNG."
        )
    if found not in ("PNG", "JPEG", "WEBP"):
        raise EvaluationError(
            f"{file} is {found}, but reference images are read from PNG, JPEG and WEBP; convert it to PNG."
        )
    if mode not in (*_GREY, *_COLOUR):
        raise EvaluationError(
            f"{file} has pixels of kind {mode}, but grey and RGB are read; convert it to a PNG of RGB."
        )
    return found, mode, size


def _decoded(file: Path, mode: str) -> Image.Image:
    try:
        with Image.open(file) as image:
            if image.mode.startswith("I;16"):
                return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert(mode)
            return image.convert(mode)
    except (OSError, SyntaxError, ValueError) as error:  # PIL has no error of its own
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> EvaluationError:
    return EvaluationError(f"{file} was to be read as an image, but cannot be ({error}); remove it or write it again.")


def _same(files: Sequence[Path], sizes: Sequence[Size]) -> None:
    other = next((index for index, size in enumerate(sizes) if size != sizes[0]), None)
    if other is not None:
        one, two = (f"{files[i]} has {sizes[i][0]}x{sizes[i][1]}" for i in (0, other))
        raise EvaluationError(
            f"Images must all have one size, but {one} and {two} pixels; make them alike, for a reference with --crop center "
            "--resize N."
        )


def _stack(images: Sequence[Image.Image]) -> Pixels:
    found: Pixels = np.stack([np.asarray(image) for image in images])
    return found if found.ndim == 4 else found[..., None]
