"""How rows lie in a file: a safetensors file with one tensor, "data".

8 bytes little-endian header length, a JSON header, then the values. The header is known before the values,
because the final shape is; so both sides can go through the file in pieces.
"""

from __future__ import annotations

import json
import math
import os

import torch
from torch import Tensor

CODES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.float64: "F64",
    torch.int64: "I64",
    torch.uint8: "U8",
}
_DTYPES = {code: dtype for dtype, code in CODES.items()}
_ALIGN = 8  # the values start at a multiple of this, as safetensors itself writes it
_HEADER_MAX = 1 << 20


def header(shape: tuple[int, ...], dtype: torch.dtype) -> bytes:
    """All bytes before the values of a tensor of `shape`."""
    size = math.prod(shape) * dtype.itemsize
    entry = {"dtype": CODES[dtype], "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"data": entry}, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def read_header(descriptor: int) -> tuple[tuple[int, ...], torch.dtype, int]:
    """Shape, dtype and the offset of the first value.

    Raises ValueError, KeyError, TypeError, AttributeError or RecursionError for another content.
    """
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > _HEADER_MAX:
        raise ValueError(f"{length} bytes long")
    tensors = json.loads(os.pread(descriptor, length, 8))
    tensors.pop("__metadata__", None)
    if list(tensors) != ["data"]:
        raise ValueError(f"tensors {list(tensors)}")
    shape = tuple(int(size) for size in tensors["data"]["shape"])
    if not shape or min(shape) < 0:
        raise ValueError(f"shape {shape}")
    return shape, _DTYPES[tensors["data"]["dtype"]], 8 + length


def bytes_of(tensor: Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor with at least one element, as bytes; writes go to the tensor."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
