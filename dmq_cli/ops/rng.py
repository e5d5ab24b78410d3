"""One random generator per image, so that an image does not depend on the batch it is sampled in.

The idea is NVlabs/edm2's `StackedRandomGenerator`; generators are on the CPU here, so that all devices draw
the same noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One CPU generator per image, seeded with the image's index."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def noise(
    shape_per_sample: Sequence[int],
    generators: Sequence[torch.Generator],
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (B, *shape_per_sample) on the CPU; row i is drawn from generator i alone.

    Every call advances the generators. Different dtypes draw different numbers.
    """
    shape = tuple(shape_per_sample)
    rows = torch.empty((len(generators), *shape), dtype=dtype)
    for row, generator in zip(rows, generators, strict=True):
        # A tensor of its own: what randn draws must not depend on where in memory the row lies.
        row.copy_(torch.randn(shape, generator=generator, dtype=dtype))
    return rows
