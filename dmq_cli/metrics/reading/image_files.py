"""Folders of images, read in batches, and what is cut and scaled before they are compared.

The centre square is cut first, then scaled, as the loaders of openai/guided-diffusion and CompVis/latent-diffusion do. Scaling
is PIL's, which averages over all pixels that fall together (antialiased): `bicubic` (latent-diffusion) or `box`.
Filters that do not, as those of TensorFlow 1 and of OpenCV, move FID by whole points (Parmar et al., CVPR 2022, 2104.11222).
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
    batches: all of them anew at every call, uint8 (at most BATCH, H, W, C), in order, looked at as `looked_at` does; files:
    one for each image, none for arrays; kinds: how many have which kind of pixels; skipped: what lies there besides.
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
        """All of them, uint8 (N, H, W, C). Raises EvaluationError where they do not fit into memory."""
        check_memory(self.name, self.shape, 1)
        whole, done = np.empty(self.shape, np.uint8), 0
        for batch in self.batches():
            whole[done : done + len(batch)] = batch
            done += len(batch)
        return whole

    def told(self) -> str:
        """What was read and what was not, in words."""
        count, height, width, channels = self.shape
        skipped = f"; skipped: {tell_skipped(self.skipped)}" if self.skipped else ""
        return f"{count} images{tell_kinds(self.kinds)} read as {height}x{width}x{channels}{skipped}"

    def record(self) -> dict[str, Any]:
        """What is known of where they come from, plain values."""
        return {
            "source": self.name,
            "source_format": ", ".join(self.formats),
            "count": self.shape[0],
            "size": list(self.shape[1:]),
            "kinds": dict(self.kinds) or None,
            "skipped": dict(self.skipped) or None,
        }


def folder_source(folder: Path, framing: Framing, lossless: bool = False) -> ImageSource:
    """The images that `list_images` finds. Grey where all are grey, otherwise RGB; 16 bits lose the lower 8.

    As in the loaders of the original evaluators, colour profiles, gamma and the orientation in a camera's EXIF are not applied.
    lossless: as for samples, PNG only, because JPEG moves FID by whole points (2104.11222), and in the order of the numbers
    in the names; otherwise sorted by path. Raises EvaluationError for no images, what `read_header` raises, and sizes
    that differ as framed.
    """
    listed = _listed(folder)
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
        next(images, None)  # what it has to say of all of them

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


def _listed(folder: Path) -> Listing:
    listed = list_images(folder)
    if not listed.files:
        skipped = f" (skipped: {tell_skipped(listed.skipped)})" if listed.skipped else ""
        raise EvaluationError(
            f"Images were to be read from {folder}, but there is none in it{skipped}; give a folder of PNG files."
        )
    return listed


def array_source(name: str, images: Pixels, framing: Framing, kind: str = "npz") -> ImageSource:
    """Images that are in memory, uint8 (N, H, W, 1 or 3). kind: what stands for the format. Raises as `folder_source`."""

    def batches() -> Iterator[Pixels]:
        yield from (images[start : start + BATCH] for start in range(0, len(images), BATCH))

    return _array_source(name, images.shape, batches, framing, kind)


def archive_source(file: Path, framing: Framing) -> ImageSource:
    """The images of an .npz, see `read_npz`; so far only their shape is read. Raises as `image_shape` and `folder_source`."""
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
