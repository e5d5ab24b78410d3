"""Folders of images: what is read, what is done to it, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dmq_cli.errors import ConfigError, EvaluationError
from dmq_cli.metrics import fidelity
from dmq_cli.metrics.reading.image_files import Framing, array_source, folder_source
from tests.metrics.helpers import digits, protocol

RNG = np.random.default_rng(0)


def picture(height: int, width: int, channels: int = 3) -> Any:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8).squeeze()


def write(folder: Path, **pixels: Any) -> Path:
    """A file for every entry; `__` in a name is a folder, the last `_` its dot."""
    for name, image in pixels.items():
        stem, _, suffix = name.replace("__", "/").rpartition("_")
        (folder / stem).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{stem}.{suffix}")
    return folder


def read_images(folder: Path) -> Any:
    """A folder as samples, as `dmq measure` reads it."""
    return folder_source(folder, Framing(), lossless=True).pixels()


def everything(source: Any) -> Any:
    return np.concatenate(list(source.batches()))


def test_files_are_read_in_the_order_of_their_paths_at_any_depth(tmp_path: Path) -> None:
    pictures = {name: picture(5, 7) for name in ("b_png", "a__z_png", "a__c__d_png")}
    (write(tmp_path, **pictures) / "list.txt").write_text("not an image", encoding="utf-8")
    source = folder_source(tmp_path, Framing())
    assert source.shape == (3, 5, 7, 3) and source.formats == ("PNG",)
    expected = np.stack([pictures["a__c__d_png"], pictures["a__z_png"], pictures["b_png"]])
    np.testing.assert_array_equal(everything(source), expected)


def test_grey_stays_grey_unless_a_colour_is_among_them(tmp_path: Path) -> None:
    grey, deep = picture(4, 4, 1), (picture(4, 4, 1).astype(np.uint16) << 8) + 200
    source = folder_source(write(tmp_path, a_png=grey, b_png=deep), Framing())
    np.testing.assert_array_equal(everything(source)[..., 0], np.stack([grey, deep >> 8]))
    colour = folder_source(write(tmp_path, c_png=picture(4, 4)), Framing())
    assert colour.shape == (3, 4, 4, 3)
    np.testing.assert_array_equal(everything(colour)[1], np.repeat((deep >> 8)[..., None], 3, axis=2))


def test_the_middle_is_cut_and_then_scaled(tmp_path: Path) -> None:
    wide, tall = picture(4, 9), picture(8, 4)
    folder = write(tmp_path, a_png=wide, b_png=tall)
    crops = everything(folder_source(folder, Framing("center")))
    np.testing.assert_array_equal(crops, np.stack([wide[:, 2:6], tall[2:6]]))
    halves = everything(folder_source(folder, Framing("center", 2, "box")))
    means = crops.reshape(2, 2, 2, 2, 2, 3).mean((2, 4))
    assert np.abs(halves - means).max() <= 1  # PIL rounds after either direction
    np.testing.assert_array_equal(everything(array_source("x", crops, Framing("none", 2, "box"))), halves)


def test_mixed_sizes_name_two_files_and_what_to_do(tmp_path: Path) -> None:
    folder = write(tmp_path, a_png=picture(8, 8), b_png=picture(8, 8), c_png=picture(6, 6))
    for framing in (Framing(), Framing("center")):
        with pytest.raises(EvaluationError, match=r"a.png has 8x8 and .*c.png has 6x6 pixels; make them alike"):
            folder_source(folder, framing)
    assert folder_source(folder, Framing("none", 6)).shape == (3, 6, 6, 3)
    write(tmp_path, d_png=picture(6, 8))
    with pytest.raises(EvaluationError, match=r"d.png was to be resized to 6x6, but has 8x6 pixels .* --crop center"):
        folder_source(folder, Framing("none", 6))


def test_jpeg_is_a_reference_but_never_a_sample(tmp_path: Path) -> None:
    folder = write(tmp_path, a_png=picture(8, 8), b_jpg=picture(8, 8))
    assert folder_source(folder, Framing()).formats == ("JPEG", "PNG")
    with pytest.raises(EvaluationError, match=r"b.jpg is JPEG, which changes the pixels .* as PNG"):
        read_images(folder)
    (folder / "b.jpg").rename(folder / "b.png")
    with pytest.raises(EvaluationError, match=r"b.png is JPEG"):
        read_images(folder)


def test_what_cannot_be_read_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="there is none in it"):
        folder_source(tmp_path, Framing())
    write(tmp_path / "alpha", a_png=picture(4, 4, 4))
    with pytest.raises(EvaluationError, match="kind RGBA"):
        folder_source(tmp_path / "alpha", Framing())
    write(tmp_path / "moving", a_gif=picture(4, 4, 1))
    with pytest.raises(EvaluationError, match="is GIF"):
        folder_source(tmp_path / "moving", Framing())
    file = write(tmp_path / "cut", a_png=picture(40, 40)) / "a.png"
    for length in (600, 10):
        file.write_bytes(file.read_bytes()[:length])
        with pytest.raises(EvaluationError, match=r"a.png was to be read as an image"):
            read_images(file.parent)
    for bad in ({"crop": "middle"}, {"resize": 0}, {"resize_filter": "nearest"}):
        with pytest.raises(ConfigError):
            Framing(**bad)


def test_samples_of_a_folder_are_measured_and_counted(tmp_path: Path) -> None:
    images, real = digits(0, 60), digits(300, 800)
    for index, image in enumerate(images):
        Image.fromarray(image[..., 0]).save(tmp_path / f"{index:05}.png")
    np.testing.assert_array_equal(read_images(tmp_path), images)
    plan = protocol(num_images=60, metrics=("fd",))
    assert fidelity(read_images(tmp_path), real, plan) == pytest.approx(fidelity(images, real, plan), rel=1e-6)
    with pytest.raises(EvaluationError, match="exactly 61 images, but 60 were given"):
        fidelity(read_images(tmp_path), real, protocol(num_images=61, metrics=("fd",)))
