"""What the processor multiplies in integers.

Where it multiplies u8 by s8 in 16 bits (AVX2 without VNNI), two products of 255 times more than 64 overflow, so weights are kept
within 64 there (lower.py cuts the others). All runtimes of the CPU do so.
"""

from __future__ import annotations

from pathlib import Path

import torch

_EXACT, _SATURATING = 127, 64


def instruction_set() -> str:
    """The widest integer instructions of this processor: amx_int8, avx512_vnni, avx_vnni, avx512, avx2 or none of these."""
    flags = torch.backends.cpu.get_cpu_capability().lower()
    file = Path("/proc/cpuinfo")
    known = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else flags
    names = {
        "amx_int8": "amx_int8",
        "avx512_vnni": "avx512_vnni",
        "avx_vnni": "avx_vnni",
        "avx512f": "avx512",
        "avx2": "avx2",
    }
    words = set(known.split())
    return next((name for flag, name in names.items() if flag in words), flags)


def weight_limit() -> int:
    """The greatest integer of a weight that this processor multiplies exactly."""
    return _EXACT if "vnni" in instruction_set() or "amx" in instruction_set() else _SATURATING
