"""Images to train on from a data set of the Hugging Face hub, or in its formats, through the package `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dmq_cli.errors import ConfigError, DmqError
from dmq_cli.metrics.reading.decoding import GREY, as_mode
from dmq_cli.qat.data import Pictures, check_part, chosen, in_memory


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

    def __post_init__(self) -> None:
        check_part(self.held_out)

    def content(self) -> str:
        """See DataSource: the fingerprint that the package computes."""
        return str(self._loaded()._fingerprint)

    def pictures(self, size: int) -> Pictures:
        """See DataSource. Raises ConfigError for a column that is not there or has something else, and for images of several sizes."""
        loaded = self._loaded()
        images = self._images(self._column(loaded, "column", self.column))
        labels = None
        if self.label_column is not None:
            labels = self._labels(self._column(loaded, "label_column", self.label_column))
        return in_memory(self._called, images, labels, chosen(len(images), self.held_out).nonzero().flatten())

    @property
    def _called(self) -> str:
        return str(self.path or self.name)

    def _column(self, loaded: Any, setting: str, name: str) -> Sequence[Any]:
        if name not in loaded.column_names:
            raise ConfigError(
                f"data.{setting}={name} is none of the columns of {self._called} ({', '.join(loaded.column_names)}); give one of them."
            )
        return list(loaded[name])

    def _images(self, values: Sequence[Any]) -> Tensor:
        """uint8 (N, C, H, W): grey where all are grey, otherwise RGB."""
        other = next((value for value in values if not isinstance(value, Image.Image)), None)
        if other is not None or not values:
            has = "nothing" if other is None else type(other).__name__
            raise ConfigError(
                f"data.column={self.column} of {self._called} has {has} and no images; give their column."
            )
        sizes = sorted({value.size for value in values})
        if len(sizes) > 1:
            some = " and ".join(f"{width}x{height}" for width, height in sizes[:2])
            raise ConfigError(f"The images of {self._called} have several sizes, such as {some}; make them alike.")
        mode = "L" if all(value.mode in GREY for value in values) else "RGB"
        rows = [torch.from_numpy(np.array(as_mode(value, mode))) for value in values]
        return torch.stack([row if row.ndim == 3 else row[..., None] for row in rows]).permute(0, 3, 1, 2)

    def _labels(self, values: Sequence[Any]) -> Tensor:
        if not all(type(value) is int for value in values):
            kind = next(type(value).__name__ for value in values if type(value) is not int)
            raise ConfigError(
                f"data.label_column={self.label_column} of {self._called} has values of type {kind}; classes are whole numbers from 0 on."
            )
        return torch.tensor(values)

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
            return datasets.load_dataset(self._called, split=self.split)
        except Exception as error:  # the package raises of everything
            raise DmqError(
                f"The data set {self._called} could not be loaded ({error}); see the documentation of datasets."
            ) from error
