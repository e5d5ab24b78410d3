from __future__ import annotations

import copy
import gc
import os
import sys
from typing import Any

# Bytecode is kept, whatever the shell says: without it every process rewrites the assertions of 300 files and compiles dmq anew.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

import torch
from omegaconf import OmegaConf

import dmq_cli  # noqa: F401 (before anything imports diffusers)
from dmq_cli.paths import conf_folder

torch.set_num_threads(1)


def _parsing_once(folder: str) -> None:
    """Parse a YAML file below this folder once by a process: that is a quarter of every composition, and no test writes there."""
    load, parsed = OmegaConf.load, dict[str, Any]()

    def loaded(file: Any) -> Any:
        name = os.path.realpath(getattr(file, "name", file))
        if not name.startswith(folder + os.sep):
            return load(file)
        if name not in parsed:
            parsed[name] = load(file)
        return copy.deepcopy(parsed[name])

    OmegaConf.load = staticmethod(loaded)


_parsing_once(os.path.realpath(conf_folder()))


def pytest_collection_finish() -> None:
    """What was imported stays: the collector need not look through it again each time."""
    gc.collect()
    gc.freeze()
