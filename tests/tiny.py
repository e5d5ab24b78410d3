"""A random UNet of 45,000 parameters, its quantized twin, and calibration data, for many tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.models import UNetAdapter
from dmq_cli.ops import PerChannel
from dmq_cli.quant import Uniform
from dmq_cli.sampling import DDIM, Sampler
from dmq_cli.wrap import Attached, Rule, Scheme, attach

ARCHITECTURE: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 2,
    "out_channels": 2,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
}
SMALL: dict[str, Any] = {  # changes to it: one level, ten units
    "block_out_channels": (8,),
    "down_block_types": ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
}
SHAPE = (2, 8, 8)
TIMESTEPS = torch.tensor([750, 500, 250, 0])


def network(dtype: torch.dtype = torch.float64, **changes: Any) -> nn.Module:
    """Always the same random weights, in eval mode, without gradients."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: nn.Module = UNet2DModel(**{**ARCHITECTURE, **changes})
    return model.eval().requires_grad_(False).to(dtype)


def adapter(dtype: torch.dtype = torch.float64, **changes: Any) -> UNetAdapter:
    return UNetAdapter(network(dtype, **changes))


def scheme(*more: Rule, weight: int = 4, act: int = 8) -> Scheme:
    """Per-channel weights, per-tensor activations, split shortcuts; `more` rules come last."""
    return Scheme(
        [
            Rule("*", bits=act),
            Rule("*.weight", bits=weight, granularity=PerChannel()),
            Rule("attn.prob", grid=partial(Uniform, from_zero=True)),
            Rule("resnet.shortcut.*", part="up", split=True),
            *more,
        ]
    )


def data(num: int = 8, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Samples and timesteps, mixed."""
    generator = torch.Generator().manual_seed(1)
    sample = torch.randn(num, *SHAPE, generator=generator, dtype=torch.float64).to(dtype)
    return sample, TIMESTEPS[torch.arange(num) % len(TIMESTEPS)]


def batches(num: int = 8, size: int = 4, dtype: torch.dtype = torch.float64) -> Iterator[tuple[Tensor, Tensor]]:
    sample, timestep = data(num, dtype)
    return zip(torch.split(sample, size), torch.split(timestep, size), strict=True)


def wrapped(
    rules: Scheme | None = None, dtype: torch.dtype = torch.float64, fit: bool = True, **changes: Any
) -> Attached:
    """The quantized twin of `network`, calibrated on `data`."""
    attached = attach(adapter(dtype, **changes), rules or scheme(), TIMESTEPS)
    attached.model.to(dtype)
    if fit:
        fit_weights(attached)
        fit_activations(attached, batches(dtype=dtype))
    return attached


def scheduler(steps: int = 4, **options: Any) -> DDIM:
    return Sampler(steps, **options).scheduler(SCHEDULE)


def one_sentence(error: BaseException) -> str:
    """The message, which starts with a capital or the name of a setting and ends with a full stop."""
    text = str(error)
    assert re.match(r"[A-Z]|[a-z_]+[.\[]", text) and text.endswith(".") and "\n" not in text, text
    return text
