"""Reading Fashion-MNIST's idx files: what is right is read, what is missing or altered is told."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
import torch

from dmq_cli import obtain
from dmq_cli.errors import EvaluationError, MissingWeightsError
from dmq_cli.zoo.fashion import PARTS, fashion_images
from tests.zoo.idx import COUNTS, pictures, small_fashion

ASKED = r"apt install dataset-fashion-mnist"


@pytest.mark.parametrize("packed", [True, False])
def test_images_have_a_black_border_and_their_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    folder = small_fashion(tmp_path, monkeypatch, packed)
    for part, published in PARTS.items():
        images, labels = fashion_images(part, str(folder))
        expected, expected_labels = pictures(COUNTS[published.prefix], seed=len(part))
        assert images.shape == (published.number, 1, 32, 32) and images.dtype == torch.uint8
        assert torch.equal(images[:, 0, 2:-2, 2:-2], expected) and torch.equal(labels, expected_labels)
        assert int(images.sum()) == int(expected.sum()), "the border is black"


def test_debians_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Path("/usr/share/datasets/fashion-mnist") == obtain.FASHION_FOLDER
    monkeypatch.setattr(obtain, "FASHION_FOLDER", small_fashion(tmp_path / "debian", monkeypatch))
    fashion_images.cache_clear()
    assert len(fashion_images("test")[0]) == 40
    fashion_images.cache_clear()


def test_a_missing_file_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = small_fashion(tmp_path, monkeypatch)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        MissingWeightsError, match=rf"t10k-labels-idx1-ubyte\[.gz\] is not there; .*{ASKED}.*data\.path="
    ):
        fashion_images("train", str(folder))


@pytest.mark.parametrize(
    ("planted", "why"),
    [
        ("pixel", "its content has the sha256"),
        ("count", "its header and length are not those of 60x28x28 bytes"),
        ("short", "its header and length are not those of 60x28x28 bytes"),
        ("long", "its header and length are not those of 60x28x28 bytes"),
        ("cut", "it cannot be unpacked"),
        ("plain", "it cannot be unpacked"),
    ],
)
def test_an_altered_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, planted: str, why: str) -> None:
    file = small_fashion(tmp_path, monkeypatch) / "train-images-idx3-ubyte.gz"
    content = gzip.decompress(file.read_bytes())
    altered = {
        "pixel": content[:-1] + b"\x01",
        "count": content[:7] + b"\x3d" + content[8:],
        "short": content[:-1],
        "long": content + b"\x00",
    }
    damaged = {"cut": file.read_bytes()[:-20], "plain": content}
    file.write_bytes(gzip.compress(altered[planted]) if planted in altered else damaged[planted])
    with pytest.raises(EvaluationError, match=rf"{why}.*{ASKED}"):
        fashion_images("train", str(tmp_path))
