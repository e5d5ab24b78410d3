from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def threads() -> None:
    """The machine that the targets are stated for has two cores. DMQ_BENCH_THREADS=1: where only one is free."""
    torch.set_num_threads(int(os.environ.get("DMQ_BENCH_THREADS", "2")))
