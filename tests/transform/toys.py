"""A toy network with one layer of every geometry, and the tiny UNet with planted outliers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.models import NOISE, Adapter, Layer, UNetAdapter
from dmq_cli.wrap import Attached, QuantDenoiser, Scheme, attach, load_extra_state, quantizing
from tests.tiny import TIMESTEPS, adapter, batches, data, scheme

PLANTED = "mid_block.resnets.0.conv1"


class ToyNet(nn.Module):
    """A convolution to one channel, a linear layer on tokens (B, N, C) and one on vectors (B, C)."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.conv, self.tokens, self.vectors = nn.Conv2d(2, 1, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 8)
        self.double()

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """(B, 2, 8, 8) and (B,) to (B, 2, 8, 8)."""
        rows: Tensor = self.tokens(self.conv(sample)[:, 0])
        rows = rows + self.vectors(timestep[:, None] * torch.linspace(-1, 1, 8, dtype=torch.float64) / 1000)[:, None]
        return torch.stack([rows, rows], 1)


class ToyAdapter:
    """What a transform asks of an adapter."""

    prediction = NOISE

    def __init__(self) -> None:
        self.model: nn.Module = ToyNet().requires_grad_(False)

    def predict(self, sample: Tensor, timestep: Tensor, cond: object) -> Tensor:
        estimate: Tensor = self.model(sample, timestep)
        return estimate

    def layers(self) -> list[Layer]:
        roles = {"conv": "resnet.conv1", "tokens": "attn.to_q", "vectors": "resnet.time_proj"}
        return [Layer(name, role, "mid") for name, role in roles.items()]

    def __getattr__(self, name: str) -> Any:
        raise NotImplementedError(name)


def calibration() -> Iterator[tuple[Tensor, Tensor]]:
    return batches(8, 3)


def planted() -> UNetAdapter:
    """In front of one convolution the norm has one channel 30 times as large; its weight has a large part of rank one."""
    unet, generator = adapter(), torch.Generator().manual_seed(3)
    with torch.no_grad():
        unet.model.get_parameter("mid_block.resnets.0.norm1.weight")[5] *= 30
        weight = unet.model.get_parameter(f"{PLANTED}.weight")
        up, down = (torch.randn(n, generator=generator, dtype=torch.float64) for n in (16, 16 * 9))
        weight += 0.3 * (up[:, None] * down).view_as(weight)
    return unet


def quantized(
    plain: Adapter, extras: Mapping[str, Tensor], weight: int = 4, act: int = 4, rules: Scheme | None = None
) -> Attached:
    """The network (changed in place) with transforms put in and ranges fitted. rules: for networks that are no UNet."""
    attached = attach(plain, rules or scheme(weight=weight, act=act), TIMESTEPS)
    attached.model.double()
    load_extra_state(attached, extras)
    fit_weights(attached)
    fit_activations(attached, batches())
    return attached


def full(attached: Attached) -> Tensor:
    """The noise estimate with quantizers off."""
    with quantizing(attached, weights=False, activations=False):
        return QuantDenoiser(attached)(*data())


def layer_error(attached: Attached, name: str) -> float:
    """Mean square error of one layer's output where only this layer is quantized."""
    outputs: list[Tensor] = []
    hook = attached.model.get_submodule(name).register_forward_hook(lambda _m, _x, y: outputs.append(y))
    full(attached)
    with quantizing(attached, weights=False, activations=False):
        for path, quantizer in attached.quantizers().items():
            quantizer.enabled = path.startswith(f"{name}.")
        QuantDenoiser(attached)(*data())
    hook.remove()
    return float((outputs[1] - outputs[0]).square().mean())
