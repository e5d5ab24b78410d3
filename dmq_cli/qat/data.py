"""Images to train on: those of the embedded models, a folder of one's own, or a data set of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, DmqError
from dmq_cli.metrics.reading.decoding import GREY
from dmq_cli.metrics.reading.image_files import Framing, ImageSource, array_source, folder_source
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
        return _in_memory("the digits of scikit-learn", images, labels, split(len(images), 0.1, 0)[1])


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
        return _in_memory("Fashion-MNIST", images, torch.cat([labels, test_labels]), held_out)


@dataclass(frozen=True)
class ImageFolder:
    """A folder of images, read as for a reference. crop, resize: see Framing; held_out: the part of them that is not trained on."""

    path: str | None = None
    crop: str = "none"
    resize: int | None = None
    held_out: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.held_out < 1:
            raise ConfigError(
                f"data.held_out={self.held_out} is not possible; it is a part of the images, between 0 and 1."
            )

    def content(self) -> str:
        """See DataSource: names, sizes and times of change of the files, so that keys are computed without reading them."""
        source = self._source()
        stats = [(str(file.relative_to(source.name)), file.stat()) for file in source.files]
        return digest([[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats])

    def pictures(self, size: int) -> Pictures:
        """See DataSource."""
        source = self._source()
        return Pictures(source, _chosen(source.shape[0], self.held_out))

    def _source(self) -> ImageSource:
        if self.path is None:
            raise ConfigError("data=images reads a folder, but none was given; add data.path=FOLDER.")
        folder = resolve(self.path)
        if not folder.is_dir():
            raise ConfigError(f"data.path={self.path} was to be a folder of images, but there is none; give one.")
        return folder_source(Path(folder), Framing(self.crop, self.resize))


@dataclass(frozen=True)
class HuggingFace:
    """A data set that the package `datasets` loads, by its name on the hub or the path of a folder. column: of the images.

    Only where the user asks for it is anything loaded from the network, by that package.
    """

    name: str | None = None
    path: str | None = None
    split: str = "train"
    column: str = "image"
    label_column: str | None = None
    held_out: float = 0.05

    def content(self) -> str:
        """See DataSource: the fingerprint that the package computes."""
        return str(self._loaded()._fingerprint)

    def pictures(self, size: int) -> Pictures:
        """See DataSource."""
        loaded = self._loaded()
        pictures = [row[self.column] for row in loaded]
        mode = "L" if all(picture.mode in GREY for picture in pictures) else "RGB"
        images = [
            torch.from_numpy(np.array(picture.convert(mode))).view(*picture.size[::-1], -1) for picture in pictures
        ]
        labels = None if self.label_column is None else torch.tensor(loaded[self.label_column])
        held_out = _chosen(len(images), self.held_out).nonzero().flatten()
        return _in_memory(str(self.path or self.name), torch.stack(images).permute(0, 3, 1, 2), labels, held_out)

    def _loaded(self) -> Any:
        try:
            import datasets
        except ImportError as error:
            raise ConfigError(
                "data=hf needs the package datasets, which is not installed; run pip install 'dmq-cli[data]'."
            ) from error
        if self.name is None and self.path is None:
            raise ConfigError("data=hf loads a data set, but none was named; add data.name=NAME.")
        try:
            return datasets.load_dataset(self.path or self.name, split=self.split)
        except Exception as error:  # the package raises of everything
            raise DmqError(
                f"The data set {self.path or self.name} could not be loaded ({error}); see the documentation of datasets."
            ) from error


def _in_memory(name: str, images: Tensor, labels: Tensor | None, held_out: Tensor) -> Pictures:
    """Wrap images (N, C, H, W) uint8. held_out: numbers of those that are not trained on."""
    source = array_source(name, images.permute(0, 2, 3, 1).contiguous().numpy(), Framing(), kind="memory")
    return Pictures(source, torch.zeros(len(images), dtype=torch.bool).index_fill_(0, held_out, True), labels)


def _chosen(count: int, part: float) -> Tensor:
    """Choose the images that are held out, at least one, the same ones every time."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0))
    return torch.zeros(count, dtype=torch.bool).index_fill_(0, order[: max(1, round(count * part))], True)
