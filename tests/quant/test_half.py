"""Tensors of half precision: their codes are those that float32 gives them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dmq_cli.quant import Dynamic, Grid, Log2, Nearest, PerStep, Static, StepContext, TensorQuantizer, Uniform

X = torch.rand(6, 500, generator=torch.Generator().manual_seed(0)) * 3 - 1
TABLE = torch.linspace(0.009, 0.013, 6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("grid", [Uniform(8), Uniform(4), Log2(4)])
@pytest.mark.parametrize("kind", ["static", "per step", "dynamic"])
def test_the_codes_are_those_of_float32(kind: str, grid: Grid, dtype: torch.dtype) -> None:
    context = StepContext()
    sources: dict[str, nn.Module] = {
        "static": Static(0.0117, 85.0),
        "per step": PerStep(context, TABLE, torch.arange(80.0, 86.0)),
        "dynamic": Dynamic(grid),
    }
    quantizer, x = TensorQuantizer(grid, sources[kind], Nearest()), X.to(dtype)
    with context.at(torch.arange(6)):
        narrow, wide = quantizer(x), quantizer(x.float())
        assert narrow.dtype == dtype and torch.equal(narrow, wide.to(dtype))
        assert torch.equal(quantizer.codes(x), quantizer.codes(x.float()))
