"""Codes of a few bits, packed without gaps: code i fills the bits from i * bits on, the lowest bit first."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dmq_cli.errors import ArtifactCorruptError

_WIDEST = 16


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes, integers in 0 .. 2^bits - 1 of any shape, in order. bits: 1..16.

    Returns uint8, ceil(number * bits / 8) long. Raises ValueError for codes outside of that range.
    """
    values = codes.detach().cpu().reshape(-1).to(torch.int64)
    if not 1 <= bits <= _WIDEST or (len(values) and not 0 <= int(values.min()) <= int(values.max()) < 1 << bits):
        raise ValueError(f"codes from {values.min()} to {values.max()} do not fit into {bits} bits")
    wide = np.unpackbits(values.numpy().astype("<u2").view(np.uint8).reshape(-1, 2), axis=1, bitorder="little")
    return torch.from_numpy(np.packbits(wide[:, :bits].reshape(-1), bitorder="little"))


def unpack(packed: Tensor, bits: int, shape: torch.Size | tuple[int, ...]) -> Tensor:
    """Unpack `pack`'s codes, int32 in this shape. Raises ArtifactCorruptError for another length than that of so many codes."""
    count = int(np.prod(shape, dtype=np.int64))
    if packed.dtype != torch.uint8 or packed.shape != (-(-count * bits // 8),):
        raise ArtifactCorruptError(
            f"Packed codes have {tuple(packed.shape)} {packed.dtype}, but {count} codes of {bits} bits were expected; export again."
        )
    stream = np.unpackbits(packed.cpu().numpy(), count=count * bits, bitorder="little").reshape(count, bits)
    wide = np.zeros((count, _WIDEST), np.uint8)
    wide[:, :bits] = stream
    codes = np.packbits(wide, axis=1, bitorder="little").view("<u2").reshape(shape)
    return torch.from_numpy(codes.astype(np.int32))
