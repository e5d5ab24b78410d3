"""Tensors in safetensors files: whole dictionaries here, one long tensor by rows in rowwriter.py and
rowfile.py, which are re-exported here."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from dmq_cli.errors import ArtifactCorruptError, NumericsError
from dmq_cli.store.files import aside
from dmq_cli.store.rowfile import RowFile, RowWriter

__all__ = ["WEIGHT_DTYPES", "RowFile", "RowWriter", "check_finite", "load_tensors", "save_tensors"]

WEIGHT_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes of a network's weights. Integers, booleans, complex numbers and 8-bit floats are codes of something else."""


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write named tensors, of any shapes and dtypes, to one safetensors file in one step.

    Views and tensors that share memory are copied. Raises OSError (a full disk too, which safetensors hides).
    """
    owned = _owned(tensors)
    with aside(path) as scratch:
        scratch.touch()
        mode = scratch.stat().st_mode  # what the umask allows: safetensors leaves a file that only its owner reads
        try:
            save_file(owned, scratch, metadata=metadata)
            scratch.chmod(mode)
        except SafetensorError as error:
            if match := re.search(r"os error (\d+)", str(error)):
                code = int(match.group(1))
                raise OSError(code, os.strerror(code), str(path)) from error
            raise


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read all tensors of a safetensors file onto the CPU.

    Raises ArtifactCorruptError where it is missing, truncated or not a safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ArtifactCorruptError(
            f"Tensors were to be read from {path}, but it is missing, truncated or not a safetensors file "
            f"({error}): delete it and make it again."
        ) from error


def check_finite(tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise NumericsError naming the first tensor, in order, with NaN or infinity, and how many it has.

    what: what the tensors are, the sentence's start, such as "The reconstruct state".
    """
    for name, tensor in tensors.items():
        bad = tensor.numel() - int(torch.isfinite(tensor).sum())
        if bad:
            raise NumericsError(
                f"{what} must be finite, but {bad} of the {tensor.numel()} values of {name} are NaN or "
                "infinite: check what it was computed from, or lower the learning rate."
            )


def _owned(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors to the CPU, contiguous, each in a storage of its own, as safetensors demands."""
    owned: dict[str, torch.Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        storage = copy.untyped_storage()
        if storage.data_ptr() in storages or storage.nbytes() != copy.nbytes:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        owned[name] = copy
    return owned
