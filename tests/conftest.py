from __future__ import annotations

import gc

import torch

import dmq_cli  # noqa: F401 (before anything imports diffusers)

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look through it again each time."""
    gc.collect()
    gc.freeze()
