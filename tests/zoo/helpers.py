"""Runs that are stopped, and a data set of 60 digits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from dmq_cli.zoo import digit_images
from dmq_cli.zoo.training import StepReport

Train = Callable[[Path, StepReport], dict[str, Any]]


class Stopped(Exception):
    pass


def few_digits(size: int = 16) -> tuple[Tensor, Tensor]:
    images, labels = digit_images(size)
    return images[:60], labels[:60]


def stopped_and_whole(train: Train, folder: Path, at: int) -> tuple[Path, Path, list[int], bool]:
    """Train once with a stop reported at step `at` and once without.

    Returns both work folders, the steps after the stop, and whether both found the same.
    """

    def stop(step: int, steps: int, loss: float) -> None:
        if step == at:
            raise Stopped

    with pytest.raises(Stopped):
        train(folder / "stopped", stop)
    steps: list[int] = []
    resumed = train(folder / "stopped", lambda step, total, loss: steps.append(step))
    whole = train(folder / "whole", lambda step, total, loss: None)
    return folder / "stopped", folder / "whole", steps, resumed == whole


def weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of every network in the folder, by file and name."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{f.relative_to(folder)}:{name}": value for f in files for name, value in load_file(f).items()}
