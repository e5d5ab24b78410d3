"""Archives of arrays: what they claim is looked at before anything grows."""

from __future__ import annotations

import io
import resource
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.reading.image_files import Framing, archive_source
from dmq_cli.metrics.reading.npz import image_shape, read_npz
from dmq_cli.metrics.references.files import read_reference

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (300, 6, 5, 3), dtype=np.uint8)


def head(shape: tuple[int, ...], dtype: str = "|u1", fortran: bool = False) -> bytes:
    """The head of a .npy, written by hand."""
    text = f"{{'descr': {dtype!r}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archive(file: Path, *members: tuple[str, bytes]) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as opened, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two of one name
        for name, data in members:
            opened.writestr(name, data)
    return file


def zeros(file: Path, shape: tuple[int, ...], count: int, dtype: str = "|u1") -> Path:
    """`count` zeros, compressed, without having them in memory here."""
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as opened,
        opened.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        member.write(head(shape, dtype))
        for _ in range(count >> 24):
            member.write(bytes(1 << 24))
    return file


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_are_read_in_batches_as_they_were_written(save: Callable[..., None], order: Any, tmp_path: Path) -> None:
    save(tmp_path / "x.npz", arr_0=np.array(IMAGES, order=order), arr_1=np.arange(300))
    source = archive_source(tmp_path / "x.npz", Framing())
    np.testing.assert_array_equal(source.pixels(), IMAGES)
    assert [len(batch) for batch in source.batches()] == [250, 50] and source.shape == IMAGES.shape
    np.testing.assert_array_equal(read_npz(tmp_path / "x.npz"), IMAGES)
    halves = archive_source(tmp_path / "x.npz", Framing("center", 5)).pixels()
    assert halves.shape == (300, 5, 5, 3)


@pytest.mark.parametrize(
    ("arrays", "part"),
    [
        ({"arr_0": IMAGES.transpose(0, 3, 1, 2)}, r"\(300, 3, 6, 5\); put the channels last"),
        ({"arr_0": IMAGES[..., :1].transpose(0, 3, 1, 2)}, "put the channels last"),
        ({"arr_0": np.zeros((4, 8, 8, 4), np.uint8)}, r"write them as grey \(C = 1\) or RGB"),
        ({"arr_0": np.zeros((4, 8, 8, 2), np.uint8)}, "write them as grey"),
        ({"arr_0": IMAGES / np.float32(255)}, "uint8 .* but has float32"),
        ({"arr_0": IMAGES.astype(np.int64)}, "int64"),
        ({"arr_0": IMAGES.astype(np.uint16)}, "uint16"),
        ({"arr_0": IMAGES > 9}, "bool"),
        ({"arr_0": IMAGES[:0]}, r"\(0, 6, 5, 3\)"),
        ({"arr_0": IMAGES[..., 0]}, r"\(300, 6, 5\)"),
        ({"arr_0": IMAGES, "arr_1": IMAGES}, "arr_0 and arr_1, and only arr_0 would be read"),
        ({"images": IMAGES}, "none under arr_0"),
        ({"arr_0": np.array([{}, None])}, "would have to be unpickled"),
    ],
)
def test_arrays_that_are_no_images(arrays: dict[str, Any], part: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    for read in (image_shape, read_npz):
        with pytest.raises(EvaluationError, match=part):
            read(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "members",
    [
        [("arr_0.npy", head((2, 4, 4, 1)) + bytes(31))],
        [("arr_0.npy", head((2, 4, 4, 1)) + bytes(33))],
        [("arr_0.npy", head((-2, 4, 4, -1)) + bytes(32))],
        [("arr_0.npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + bytes(99))],
        [("arr_0.npy", b"\x93NUMPY\x01\x00\xff\xff" + b"[" * 65535)],
        [("arr_0.npy", head((1,), "|O") + b"cos\nsystem\n")],
        [("arr_0.npy", b"")],
        [("arr_0.npy", head((1 << 62, 1 << 62, 4, 1)))],
    ],
)
def test_heads_that_lie(members: list[tuple[str, bytes]], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"x.npz was to be read as an .npz .* but cannot be"):
        read_npz(archive(tmp_path / "x.npz", *members))


def test_a_reference_of_one_colour_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", arr_0=np.full((300, 8, 8, 1), 7, np.uint8))
    with pytest.raises(EvaluationError, match=r"Every one of the 300 images of .*x.npz is a single colour"):
        read_reference(tmp_path / "x.npz", "x")


def test_two_arrays_of_one_name_are_refused(tmp_path: Path) -> None:
    data = io.BytesIO()
    np.save(data, IMAGES)
    file = archive(tmp_path / "x.npz", ("arr_0.npy", data.getvalue()), ("arr_0.npy", data.getvalue()))
    with pytest.raises(EvaluationError, match="two arrays of one name"):
        read_npz(file)


def test_altered_bytes_are_seen_while_images_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", arr_0=IMAGES)
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(EvaluationError, match="cannot be"):
        archive_source(tmp_path / "x.npz", Framing()).pixels()


def test_what_would_grow_is_refused_before_it_does(tmp_path: Path) -> None:
    file = zeros(tmp_path / "bomb.npz", (17 << 10, 128, 128, 1), 17 << 24)
    assert file.stat().st_size < 1 << 21
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (image_shape, read_npz, lambda one: read_reference(one, "bomb")):
        with pytest.raises(EvaluationError, match=r"MB that would grow to 0.3 GB of images"):
            read(file)
    sigma = zeros(tmp_path / "sigma.npz", (1 << 12, 1 << 11), 1 << 26, "<f8")
    with zipfile.ZipFile(sigma) as opened, zipfile.ZipFile(tmp_path / "stats.npz", "w") as output:
        output.writestr("mu.npy", head((9,), "<f8") + bytes(72))
        with opened.open("arr_0.npy") as theirs, output.open("sigma.npy", "w", force_zip64=True) as ours:
            while data := theirs.read(1 << 20):
                ours.write(data)
    with pytest.raises(EvaluationError, match=r"\(9,\) and \(4096, 2048\)"):
        read_reference(tmp_path / "stats.npz", "stats")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_more_than_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "x.npz", arr_0=IMAGES)
    monkeypatch.setattr("os.sysconf", lambda name: 100)
    for read in (read_npz, lambda file: archive_source(file, Framing()).pixels()):
        with pytest.raises(EvaluationError, match=r"would take 0.0 GB, but this machine has"):
            read(tmp_path / "x.npz")


def test_a_cache_of_torch_fidelity_that_would_grow_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmq_cli.metrics.references.files.LARGEST", 64)
    torch.save({"mu": torch.zeros(65), "sigma": torch.eye(65).double()}, tmp_path / "x.pt")
    with pytest.raises(EvaluationError, match="cached mu and sigma, but cannot be"):
        read_reference(tmp_path / "x.pt", "x")
    torch.save({"mu": torch.zeros(2, dtype=torch.complex64), "sigma": torch.eye(2)}, tmp_path / "x.pt")
    with pytest.raises(EvaluationError, match="cached mu and sigma, but cannot be"):
        read_reference(tmp_path / "x.pt", "x")
