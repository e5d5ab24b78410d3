"""Read folders of images in batches, cropped and scaled before they are compared.

The centre square is cropped first, then scaled, as the loaders of openai/guided-diffusion and CompVis/latent-diffusion do. Scaling
is PIL's, which is antialiased: `bicubic` (latent-diffusion) or `box`. Filters without antialiasing, as those of TensorFlow 1 and of
OpenCV, move FID by whole points (Parmar et al., CVPR 2022, 2104.11222).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dmq_cli.errors import ConfigError, EvaluationError, nearest
from dmq_cli.metrics.reading.decoding import GREY, decoded, read_header
from dmq_cli.metrics.reading.listing import Listing, list_images, tell_kinds, tell_skipped
from dmq_cli.metrics.reading.look import Pixels, looked_at
from dmq_cli.metrics.reading.npz import check_memory, image_shape, read_batches
from dmq_cli.metrics.reading.order import natural

Size = tuple[int, int]
BATCH = 250
_FILTERS = {"bicubic": Image.Resampling.BICUBIC, "box": Image.Resampling.BOX}


@dataclass(frozen=True)
class Framing:
    """Crop and scale of every image. crop: `none`, or `center`, the largest square in the middle. resize: side of the scaled
    square, None: not scaled. resize_filter: PIL's `bicubic` or `box`. Raises ConfigError for other values.
    """

    crop: str = "none"
    resize: int | None = None
    resize_filter: str = "bicubic"

    def __post_init__(self) -> None:
        for what, value, names in (("crop", self.crop, ("none", "center")), ("filter", self.resize_filter, _FILTERS)):
            if value not in names:
                raise ConfigError(f"There is no {what} {value} of images.{nearest(value, names)}")
        if self.resize is not None and self.resize < 1:
            raise ConfigError(f"Images cannot be resized to {self.resize}; give at least 1.")

    def outcome(self, size: Size, name: str) -> Size:
        """The (width, height) of an image of `size` after framing. Raises EvaluationError for a scaling that would distort it."""
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
        """Crop and scale an image; the same object where there is nothing to do."""
        width, height = image.size
        side = min(width, height)
        if self.crop == "center" and width != height:
            x, y = (width - side) // 2, (height - side) // 2
            image = image.crop((x, y, x + side, y + side))
        if self.resize is not None and image.size != (self.resize, self.resize):
            image = image.resize((self.resize, self.resize), _FILTERS[self.resize_filter])
        return image


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images that are read when they are needed. name: of their folder or file; formats: of the files; shape: (N, H, W, C) as
    framed; batches: reads all of them at every call, uint8 (at most BATCH, H, W, C), in order, checked by `looked_at`; files: one
    for each image, none for arrays; kinds: number of images by kind of pixels; skipped: number of other files by kind.
    """

    name: str
    formats: tuple[str, ...]
    shape: tuple[int, int, int, int]
    framing: Framing
    batches: Callable[[], Iterator[Pixels]]
    files: tuple[Path, ...] = ()
    kinds: Mapping[str, int] = field(default_factory=dict)
    skipped: Mapping[str, int] = field(default_factory=dict)

    def pixels(self) -> Pixels:
        """Read all images, uint8 (N, H, W, C). Raises EvaluationError where they do not fit into memory."""
        check_memory(self.name, self.shape, 1)
        whole, num_done = np.empty(self.shape, np.uint8), 0
        for batch in self.batches():
            whole[num_done : num_done + len(batch)] = batch
            num_done += len(batch)
        return whole

    def describe(self) -> str:
        """Describe the images read and the files skipped, in words."""
        count, height, width, channels = self.shape
        skipped = f"; skipped: {tell_skipped(self.skipped)}" if self.skipped else ""
        return f"{count} images{tell_kinds(self.kinds)} read as {height}x{width}x{channels}{skipped}"

    def record(self) -> dict[str, Any]:
        """Record where they come from, plain values."""
        return {
            "source": self.name,
            "source_format": ", ".join(self.formats),
            "count": self.shape[0],
            "size": list(self.shape[1:]),
            "kinds": dict(self.kinds) or None,
            "skipped": dict(self.skipped) or None,
        }


def folder_source(folder: Path, framing: Framing, lossless: bool = False) -> ImageSource:
    """Open the images that `list_images` finds. Grey where all are grey, otherwise RGB; 16 bits lose the lower 8.

    As in the loaders of the original evaluators, colour profiles, gamma and the orientation in a camera's EXIF are not applied.
    lossless: for samples: PNG only, because JPEG moves FID by whole points (2104.11222), in the order of the numbers in the names;
    otherwise sorted by path. Raises EvaluationError for no images and for sizes that differ after framing, and as `read_header`.
    """
    listed = listed_images(folder)
    files = sorted(listed.files, key=lambda file: natural(file.relative_to(folder))) if lossless else listed.files
    heads = [read_header(file, lossless) for file in files]
    sizes = [framing.outcome(head.size, str(file)) for file, head in zip(files, heads, strict=True)]
    _same(files, sizes)
    mode = "L" if all(head.mode in GREY for head in heads) else "RGB"
    width, height = sizes[0]

    def batches() -> Iterator[Pixels]:
        images = decoded(files, heads, mode)
        for start in range(0, len(files), BATCH):
            yield _stack([framing.apply(next(images)) for _ in files[start : start + BATCH]])
        next(images, None)  # lets it raise errors about the set

    return ImageSource(
        str(folder),
        tuple(sorted({head.format for head in heads})),
        (len(files), height, width, len(mode)),
        framing,
        lambda: looked_at(batches(), str(folder)),
        tuple(files),
        dict(sorted(Counter(head.kind for head in heads).items())),
        listed.skipped,
    )


def listed_images(folder: Path) -> Listing:
    """List the images of a folder. Raises EvaluationError where there is none."""
    listed = list_images(folder)
    if not listed.files:
        skipped = f" (skipped: {tell_skipped(listed.skipped)})" if listed.skipped else ""
        raise EvaluationError(
            f"Images were to be read from {folder}, but there is none in it{skipped}; give a folder of PNG files."
        )
    return listed


def array_source(name: str, images: Pixels, framing: Framing, kind: str = "npz") -> ImageSource:
    """Wrap images in memory, uint8 (N, H, W, 1 or 3). kind: named as their format. Raises as `folder_source`."""

    def batches() -> Iterator[Pixels]:
        yield from (images[start : start + BATCH] for start in range(0, len(images), BATCH))

    return _array_source(name, images.shape, batches, framing, kind)


def archive_source(file: Path, framing: Framing) -> ImageSource:
    """Open the images of an .npz, see `read_npz`; only their shape is read yet. Raises as `image_shape` and `folder_source`."""
    return _array_source(str(file), image_shape(file), lambda: read_batches(file, BATCH), framing, "npz")


def _array_source(
    name: str, shape: Sequence[int], stored: Callable[[], Iterable[Pixels]], framing: Framing, kind: str
) -> ImageSource:
    count, height, width, channels = shape
    size = framing.outcome((width, height), name)

    def framed(image: Pixels) -> Image.Image:
        return framing.apply(Image.fromarray(image.squeeze(-1) if channels == 1 else image))

    def batches() -> Iterator[Pixels]:
        for batch in stored():
            yield batch if size == (width, height) else _stack([framed(image) for image in batch])

    whole = (count, size[1], size[0], channels)
    return ImageSource(name, (kind,), whole, framing, lambda: looked_at(batches(), name))


def _same(files: Sequence[Path], sizes: Sequence[Size]) -> None:
    differing = next((index for index, size in enumerate(sizes) if size != sizes[0]), None)
    if differing is not None:
        first, second = (f"{files[i]} has {sizes[i][0]}x{sizes[i][1]}" for i in (0, differing))
        raise EvaluationError(
            f"Images must all have one size, but {first} and {second} pixels; make them alike, for a reference with --crop center "
            "--resize N."
        )


def _stack(images: Sequence[Image.Image]) -> Pixels:
    pixels: Pixels = np.stack([np.asarray(image) for image in images])
    return pixels if pixels.ndim == 4 else pixels[..., None]
