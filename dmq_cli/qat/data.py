"""Images to train on: those of the embedded models, or a folder of one's own; see hub.py for the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.metrics.reading.image_files import Framing, ImageSource, array_source, folder_source, listed_images
from dmq_cli.paths import resolve
from dmq_cli.store.hashing import digest
from dmq_cli.zoo import digit_images, fashion_images, split


@dataclass(frozen=True)
class Pictures:
    """Images, read when they are needed. held_out: bool, (N,), those that are not trained on; labels: classes, int64 (N,), if known."""

    source: ImageSource
    held_out: Tensor
    labels: Tensor | None = None

    def batches(self, held_out: bool) -> Iterator[Tensor]:
        """One part of them, uint8 (B, C, H, W), in order."""
        start = 0
        for batch in self.source.batches():
            rows = self.held_out[start : start + len(batch)] == held_out
            start += len(batch)
            if bool(rows.any()):
                yield torch.from_numpy(batch)[rows].permute(0, 3, 1, 2).contiguous()

    def labels_of(self, held_out: bool) -> Tensor | None:
        """The classes of one part."""
        return None if self.labels is None else self.labels[self.held_out == held_out]


class DataSource(Protocol):
    """Where images come from: a record of a configuration."""

    def content(self) -> str | None:
        """What identifies the images; None where the record itself does. Raises DmqError where they cannot be read."""
        ...

    def pictures(self, size: int) -> Pictures:
        """Open them. size: side of the images that the model draws."""
        ...


@dataclass(frozen=True)
class Digits:
    """The digits that the embedded models were trained on, split as for them. path: None; it is for other data."""

    path: str | None = None

    def content(self) -> str | None:
        """See DataSource."""
        if self.path is not None:
            raise ConfigError(
                f"data.path={self.path} was given with data=digits, which reads no folder; use data=images."
            )
        return None

    def pictures(self, size: int) -> Pictures:
        """See DataSource: of 16x16 or 32x32."""
        images, labels = digit_images(size)
        return in_memory("the digits of scikit-learn", images, labels, split(len(images), 0.1, 0)[1])


@dataclass(frozen=True)
class Fashion:
    """Fashion-MNIST, of which the test part is held out. path: of its files, None for the usual place."""

    path: str | None = None

    def content(self) -> str | None:
        """See DataSource: the files have to be the published ones."""
        return None

    def pictures(self, size: int) -> Pictures:
        """See DataSource."""
        (train, labels), (test, test_labels) = (fashion_images(part, self.path) for part in ("train", "test"))
        images, held_out = torch.cat([train, test]), torch.arange(len(train), len(train) + len(test))
        return in_memory("Fashion-MNIST", images, torch.cat([labels, test_labels]), held_out)


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, read as for a reference. crop, resize: see Framing; held_out: the part of them that is not trained on."""

    path: str | None = None
    crop: str = "none"
    resize: int | None = None
    held_out: float = 0.05

    def __post_init__(self) -> None:
        check_part(self.held_out)

    def content(self) -> str:
        """See DataSource: names, sizes and times of change of the files, so that keys are computed without reading them."""
        folder = self._folder()
        stats = [(str(file.relative_to(folder)), file.stat()) for file in listed_images(folder).files]
        return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])

    def pictures(self, size: int) -> Pictures:
        """See DataSource."""
        source = folder_source(self._folder(), Framing(self.crop, self.resize))
        return Pictures(source, chosen(source.shape[0], self.held_out))

    def _folder(self) -> Path:
        if self.path is None:
            raise ConfigError("data=images reads a folder, but none was given; add data.path=FOLDER.")
        folder = resolve(self.path)
        if not folder.is_dir():
            raise ConfigError(f"data.path={self.path} was to be a folder of images, but there is none; give one.")
        return Path(folder)


def in_memory(name: str, images: Tensor, labels: Tensor | None, held_out: Tensor) -> Pictures:
    """Wrap images (N, C, H, W) uint8. held_out: numbers of those that are not trained on."""
    source = array_source(name, images.permute(0, 2, 3, 1).contiguous().numpy(), Framing(), kind="memory")
    return Pictures(source, torch.zeros(len(images), dtype=torch.bool).index_fill_(0, held_out, True), labels)


def check_part(held_out: float) -> None:
    """Check a part of the images that is held out. Raises ConfigError."""
    if not 0 < held_out < 1:
        raise ConfigError(f"data.held_out={held_out} is not possible; it is a part of the images, between 0 and 1.")


def chosen(count: int, part: float) -> Tensor:
    """Choose the images that are held out, at least one, the same ones every time."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.zeros(count, dtype=torch.bool).index_fill_(0, order[: max(1, round(count * part))], True)
