"""What files and arrays hold besides 8-bit grey and RGB: read as what it is, or refused."""

from __future__ import annotations

import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.reading.image_files import Framing, array_source, folder_source

RNG = np.random.default_rng(0)
SHAPE = (6, 5)


def png(file: Path, pixels: Any, kind: int, depth: int = 16, more: bytes = b"") -> Path:
    """A PNG written by hand, as its specification has it. pixels: (H, W, C) of at most `depth` bits; kind: 0 grey, 2 RGB,
    4 grey with alpha, 6 RGB with alpha. more: chunks before the pixels.
    """
    height, width = pixels.shape[:2]
    rows = [b"\0" + row.astype(">u2" if depth == 16 else np.uint8).tobytes() for row in pixels]
    head = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    body = chunk(b"IHDR", head) + more + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return file


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def deep(channels: int, largest: int = 65535) -> Any:
    values = RNG.integers(0, largest, (*SHAPE, channels), dtype=np.uint16, endpoint=True)
    values[0, 0] = largest
    return values


def read(folder: Path) -> Any:
    return folder_source(folder, Framing()).pixels()


def refused(folder: Path) -> str:
    with pytest.raises(EvaluationError) as caught:
        read(folder)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3)])
def test_sixteen_bits_keep_the_upper_eight(kind: int, channels: int, tmp_path: Path) -> None:
    written = [deep(channels), deep(channels)]
    for index, pixels in enumerate(written):
        png(tmp_path / f"{index}.png", pixels, kind)
    source = folder_source(tmp_path, Framing())
    np.testing.assert_array_equal(source.pixels(), np.stack(written) // 256)
    assert list(source.kinds) == [f"{'grey' if kind == 0 else 'RGB'} of 16 bits"]


@pytest.mark.parametrize("kind", [0, 2])
@pytest.mark.parametrize(
    ("largest", "part"), [(255, "no value above 255"), (1, "no value above 255"), (4095, "12 or 14")]
)
def test_sixteen_bits_that_are_not_used_are_refused(kind: int, largest: int, part: str, tmp_path: Path) -> None:
    channels = 3 if kind else 1
    png(tmp_path / "0.png", deep(channels, largest), kind)
    png(tmp_path / "1.png", deep(channels, largest), kind)
    assert part in refused(tmp_path)
    png(tmp_path / "2.png", deep(channels), kind)
    if largest == 4095:  # dark images among others
        assert read(tmp_path).shape[0] == 3
    else:
        assert "0.png has 16 bits a channel but no value above 255" in refused(tmp_path)


def test_black_among_grey_of_sixteen_bits_is_black(tmp_path: Path) -> None:
    png(tmp_path / "0.png", deep(1), 0)
    png(tmp_path / "1.png", np.zeros((*SHAPE, 1), np.uint16), 0)
    assert read(tmp_path)[1].max() == 0


def test_fewer_than_eight_bits_are_spread_over_the_range(tmp_path: Path) -> None:
    packed = np.array([[0b00011011, 0b11100100]] * 2, np.uint8)[..., None]
    file = png(tmp_path / "0.png", packed, 0, depth=2)
    data = bytearray(file.read_bytes())
    data[16:20] = struct.pack(">I", 8)  # pixels, not bytes, a row
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    file.write_bytes(data)
    np.testing.assert_array_equal(read(tmp_path)[0, 0, :, 0], [0, 85, 170, 255, 255, 170, 85, 0])


@pytest.mark.parametrize("mode", ["LA", "RGBA", "CMYK"])
def test_kinds_of_pixels_that_are_not_read(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8))
    image.convert(mode).save(tmp_path / ("0.jpg" if mode == "CMYK" else "0.png"))
    assert f"kind {mode}, but grey and RGB are read" in refused(tmp_path)


def test_a_transparency_of_palettes_and_of_one_colour_is_refused(tmp_path: Path) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8))
    image.quantize(8).save(tmp_path / "0.png", transparency=bytes([0, 255]))
    assert "kind P with a transparency" in refused(tmp_path)
    image.save(tmp_path / "0.png", transparency=(1, 2, 3))
    assert "kind RGB with a transparency" in refused(tmp_path)
    image.quantize(8).save(tmp_path / "0.png")
    np.testing.assert_array_equal(read(tmp_path)[0], np.asarray(image.quantize(8).convert("RGB")))


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_several_frames_are_no_image(suffix: str, tmp_path: Path) -> None:
    frames = [Image.fromarray(RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)) for _ in range(3)]
    frames[0].save(tmp_path / f"0.{suffix}", save_all=True, append_images=frames[1:])
    assert "has 3 frames" in refused(tmp_path)


def test_the_orientation_of_a_camera_and_gamma_are_not_applied(tmp_path: Path) -> None:
    pixels = RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by a quarter
    Image.fromarray(pixels).save(tmp_path / "0.png", exif=exif)
    png(tmp_path / "1.png", pixels, 2, depth=8, more=chunk(b"gAMA", struct.pack(">I", 100000)))
    Image.fromarray(255 - pixels).save(tmp_path / "2.png")
    np.testing.assert_array_equal(read(tmp_path), np.stack([pixels, pixels, 255 - pixels]))


def test_grey_among_colours_is_said(tmp_path: Path) -> None:
    for index in range(3):
        pixels = RNG.integers(0, 256, (*SHAPE, 3), dtype=np.uint8)
        Image.fromarray(pixels[..., 0] if index == 1 else pixels).save(tmp_path / f"{index}.png")
    source = folder_source(tmp_path, Framing())
    assert source.kinds == {"RGB": 2, "grey": 1}
    assert source.describe() == "3 images of mixed kinds (RGB 2, grey 1) read as 6x5x3"


def test_an_image_of_too_many_pixels_is_refused_by_its_head(tmp_path: Path) -> None:
    for side in (10_000, 20_000, 2_000_000_000):
        file = png(tmp_path / "0.png", deep(1), 0)
        data = bytearray(file.read_bytes())
        data[16:24] = struct.pack(">II", side, side)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        file.write_bytes(data)
        assert "0.png has more than 89,478,485 pixels by its head" in refused(tmp_path)


@pytest.mark.parametrize(
    ("images", "part"),
    [
        (np.full((4, 8, 8, 1), 7, np.uint8), "is a single colour"),
        (np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2), "is a single colour"),
        (np.full((300, 8, 8, 3), (1, 2, 3), np.uint8), "is a single colour"),
        (RNG.integers(0, 256, (1, 8, 8, 3), dtype=np.uint8).repeat(300, 0), "All 300 images of x are the same"),
        (RNG.integers(0, 2, (4, 8, 8, 1), dtype=np.uint8), "have none above 1; multiply them by 255"),
    ],
)
def test_sets_that_are_samples_of_nothing(images: Any, part: str) -> None:
    with pytest.raises(EvaluationError, match=part):
        array_source("x", images, Framing()).pixels()


def test_flat_black_and_repeated_images_among_others_are_images(caplog: pytest.LogCaptureFixture) -> None:
    images = RNG.integers(0, 256, (4, 8, 8, 1), dtype=np.uint8)
    images[1], images[3] = 0, images[2]
    np.testing.assert_array_equal(array_source("x", images, Framing()).pixels(), images)
    with caplog.at_level(logging.WARNING, "dmq"):
        array_source("x", images // 5, Framing()).pixels()
    assert f"no value above {images.max() // 5} of 255" in caplog.text
