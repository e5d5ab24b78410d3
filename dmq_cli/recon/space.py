"""Bytes on disk that capturing takes, and whether they are free."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dmq_cli.errors import DiskError
from dmq_cli.models import Denoiser, is_by_sample, named_arguments, packed
from dmq_cli.recon.calls import Batches, rows_of
from dmq_cli.recon.hooks import TARGET, Reached, hooked
from dmq_cli.store import free_bytes


def require_space(what: str, needed: int, folder: Path) -> None:
    """Raise DiskError if `needed` bytes do not fit on the folder's disk. what: is written, e.g. "the unit conv_in"."""
    free = free_bytes(folder)
    if free is not None and needed > free:
        raise DiskError(
            f"Capturing {what} writes {needed / 2**30:.2f} GiB to {folder}, where {free / 2**30:.2f} GiB are free; use fewer"
            " recon.num_samples, or another folder with runtime.outputs."
        )


def bytes_of_targets(denoiser: Denoiser, modules: Mapping[str, nn.Module], data: Batches, *, inputs: bool) -> int:
    """Count the bytes that `record` writes for one sample, with outputs."""
    unit_sizes = sizes(denoiser, modules, data).values()
    return sum(size for named_sizes in unit_sizes for name, size in named_sizes.items() if inputs or name == TARGET)


@torch.no_grad()
def sizes(
    denoiser: Denoiser, modules: Mapping[str, nn.Module], data: Batches, *, stop: bool = False
) -> dict[str, dict[str, int]]:
    """Bytes of every input and output of the modules for one sample, by module and argument. stop: see `record`."""
    sizes_by_module: dict[str, dict[str, int]] = {}

    def make_hook(name: str) -> Callable[..., None]:
        def hook(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            tensors = {**named_arguments(args, kwargs), TARGET: packed(output)}
            sizes_by_module.setdefault(
                name, {n: value.nbytes for n, value in tensors.items() if is_by_sample(value, 1)}
            )
            if stop:
                raise Reached

        return hook

    with hooked(modules, make_hook), contextlib.suppress(Reached):
        denoiser(*rows_of(next(data()), slice(1), "cpu"))
    return sizes_by_module
