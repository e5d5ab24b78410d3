from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.models.importers import RECIPES
from tests.models.importers.miniatures import CHANGES, small, state


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a checkpoint with few channels, changed on demand; the recipes have as few."""
    for name in CHANGES:
        monkeypatch.setitem(RECIPES, name, small(name))

    def write(name: str, change: Callable[[dict[str, Tensor]], object] = lambda weights: None) -> Path:
        weights = state(name)
        change(weights)
        path = tmp_path / f"{name}.ckpt"
        whole = {"state_dict": weights, "global_step": 3, "hooks": [nn.ReLU]}
        torch.save(weights if name == "ddim_cifar10" else whole, path)
        return path

    return write
