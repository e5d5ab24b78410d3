"""Read one image file: its header, and its pixels as 8-bit grey or RGB."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.reading.look import DARK

GREY = ("1", "L", "I;16", "I;16B")
_COLOUR = ("RGB", "P")
_FORMATS = ("PNG", "JPEG", "WEBP")
_PNG = b"\x89PNG\r\n\x1a\n"
_DEPTH = 24  # the byte of a PNG that says how many bits a channel has


class Header(NamedTuple):
    """format and mode as PIL calls them; size: (width, height); deep: whether a channel has 16 bits."""

    format: str
    mode: str
    size: tuple[int, int]
    deep: bool

    @property
    def kind(self) -> str:
        """The kind of its pixels, for people."""
        names = {"1": "black and white", "L": "grey", "P": "palette", "RGB": "RGB"}
        return f"{names.get(self.mode, 'grey')}{' of 16 bits' if self.deep else ''}"


def read_header(file: Path, lossless: bool) -> Header:
    """Read the header of an image file, without decoding it.

    lossless: whether only PNG will do. Raises EvaluationError for another format, several frames, more pixels than PIL
    deems safe, a transparency, other kinds of pixels than grey and RGB, and for a file that cannot be read.
    """
    with _opened(file) as image:
        format_name, mode, frames = str(image.format), image.mode, getattr(image, "n_frames", 1)
        clear, size = "transparency" in image.info, image.size
    if lossless and format_name != "PNG":
        raise EvaluationError(
            f"{file} is {format_name}, which changes the pixels and with them every distance; write the samples as PNG."
        )
    if format_name not in _FORMATS:
        raise EvaluationError(
            f"{file} is {format_name}, but reference images are read from PNG, JPEG and WEBP; convert it to PNG."
        )
    if mode not in (*GREY, *_COLOUR) or clear:
        kind = f"{mode} with a transparency" if clear else mode
        raise EvaluationError(
            f"{file} has pixels of kind {kind}, but grey and RGB are read; convert it to a PNG of RGB."
        )
    if frames > 1:
        raise EvaluationError(f"{file} has {frames} frames, but an image is one; write each frame as a PNG of its own.")
    return Header(format_name, mode, size, _is_deep(file))


def decoded(files: Sequence[Path], heads: Sequence[Header], mode: str) -> Iterator[Image.Image]:
    """Decode every file to an image of `mode`, L or RGB. Of 16 bits the upper 8 are kept.

    Raises EvaluationError for a file that cannot be read, and where 16 bits are declared but not used: for a file with all values
    below 256, or, after the last one, for a set whose values look like 10, 12 or 14 bits.
    """
    largest = 0
    for file, head in zip(files, heads, strict=True):
        with _opened(file) as opened:
            image = _eight_bits(opened, mode)
            if head.deep:
                largest = max(largest, _check_deep(file, opened, image))
        yield image.convert(mode)
    if 0 < largest < DARK:
        deep = next(file for file, head in zip(files, heads, strict=True) if head.deep)
        raise EvaluationError(
            f"The 16-bit images around {deep} have no value above {largest * 256 + 255} of 65,535, as if they held 10, 12 or 14"
            " bits; scale them to the whole range, or convert them to 8 bits."
        )


def as_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to 8-bit grey (L) or RGB; of 16 bits the upper 8 are kept, which PIL itself clips."""
    return _eight_bits(image, mode).convert(mode)


def _eight_bits(image: Image.Image, mode: str) -> Image.Image:
    """Grey where it was grey of 16 bits, `mode` otherwise."""
    return _upper(image) if image.mode.startswith("I;16") else image.convert(mode)


def _check_deep(file: Path, opened: Image.Image, image: Image.Image) -> int:
    """Find the largest value of the upper 8 bits. PIL keeps the lower 8 of grey only: a grey image may be black, a coloured one not."""
    largest = int(np.asarray(image).max())
    if not largest and (image.mode != "L" or bool(np.asarray(opened).any())):
        raise EvaluationError(
            f"{file} has 16 bits a channel but no value above 255, so it would be read as black; convert it to 8 bits, or scale it"
            " to 65,535."
        )
    return largest


def _upper(image: Image.Image) -> Image.Image:
    return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))


def _is_deep(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(_DEPTH + 1)
    return head.startswith(_PNG) and head[_DEPTH:] == b"\x10"


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """Open a file with PIL. Turns whatever it raises, as it has no class of its own, into EvaluationError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parts that are not read, such as a damaged EXIF
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                yield image
    except EvaluationError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise EvaluationError(
            f"{file} has more than {Image.MAX_IMAGE_PIXELS:,} pixels by its head, which is no sample and may fill the memory; "
            "make it smaller, or take it out."
        ) from error
    except Exception as error:
        raise EvaluationError(
            f"{file} was to be read as an image, but cannot be ({error}); remove it or write it again."
        ) from error
