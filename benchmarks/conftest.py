from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def two_threads() -> None:
    """The machine that the targets are stated for has two cores."""
    torch.set_num_threads(2)
