from __future__ import annotations

import gc
import os
import sys

# Numpy reads it when it is imported: the threads of two workers would wait for each other, for ten times as long as they work.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

import dmq_cli  # noqa: F401 (before anything imports diffusers)
from tests import kept, representatives

# Bytecode is kept, whatever the shell says: without it every process rewrites the assertions of 300 files and compiles dmq anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
torch.set_num_threads(1)
kept.keep_all()
os.fsync = lambda fd: None  # nobody cuts the power; tests/store kills processes of its own


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Before tests are chosen by their marks: of long ones with many values, some are run by default."""
    representatives.mark(items)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look through it again each time."""
    gc.collect()
    gc.freeze()
