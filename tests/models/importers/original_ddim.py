"""The original pixel UNet, stated from its definition, with the original names of parameters.

DDPM (Ho et al. 2020) as in ermongroup/ddim: models/diffusion.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, silu


def sines(timestep: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """Sine first; frequencies 10000^(-k / (n - 1)). float32 as in the original."""
    half = width // 2
    rates = torch.exp(torch.arange(half, dtype=torch.float32) * -(math.log(10000) / (half - 1)))
    angles = timestep.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1).to(dtype)


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, temb: int | None, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, inner, eps=1e-6)
        self.conv1 = nn.Conv2d(inner, outer, 3, padding=1)
        if temb is not None:
            self.temb_proj = nn.Linear(temb, outer)
        self.norm2 = nn.GroupNorm(groups, outer, eps=1e-6)
        self.conv2 = nn.Conv2d(outer, outer, 3, padding=1)
        if inner != outer:
            self.nin_shortcut = nn.Conv2d(inner, outer, 1)

    def forward(self, x: Tensor, temb: Tensor | None) -> Tensor:
        h = self.conv1(silu(self.norm1(x)))
        if temb is not None:
            h = h + self.temb_proj(silu(temb))[:, :, None, None]
        h = self.conv2(silu(self.norm2(h)))
        return (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x) + h  # type: ignore[no-any-return]


class Attn(nn.Module):
    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (conv(h).flatten(2) for conv in (self.q, self.k, self.v))
        weights = torch.einsum("bci,bcj->bij", q, k) / math.sqrt(x.shape[1])
        attended = torch.einsum("bij,bcj->bci", weights.softmax(-1), v)
        return x + self.proj_out(attended.reshape(x.shape))  # type: ignore[no-any-return]


class Resample(nn.Module):
    """One strided convolution, padded on the right and below; or nearest neighbours and a convolution."""

    def __init__(self, width: int, up: bool) -> None:
        super().__init__()
        self.up = up
        self.conv = nn.Conv2d(width, width, 3, stride=1 if up else 2, padding=1 if up else 0)

    def forward(self, x: Tensor) -> Tensor:
        y = interpolate(x, scale_factor=2.0, mode="nearest") if self.up else pad(x, (0, 1, 0, 1))
        return self.conv(y)  # type: ignore[no-any-return]


def level(blocks: list[Block], width: int, attend: bool, groups: int) -> Any:
    module: Any = nn.Module()
    module.block = nn.ModuleList(blocks)
    module.attn = nn.ModuleList([Attn(width, groups) for _ in blocks] if attend else [])
    return module


def middle(width: int, temb: int | None, groups: int) -> Any:
    mid: Any = nn.Module()
    mid.block_1, mid.attn_1 = Block(width, width, temb, groups), Attn(width, groups)
    mid.block_2 = Block(width, width, temb, groups)
    return mid


def through_middle(mid: Any, h: Tensor, temb: Tensor | None) -> Tensor:
    return mid.block_2(mid.attn_1(mid.block_1(h, temb)), temb)  # type: ignore[no-any-return]


class Model(nn.Module):
    """The UNet. attended: levels with attention, besides the middle."""

    def __init__(self, ch: int, mult: tuple[int, ...], attended: set[int], size: int = 3, groups: int = 32) -> None:
        super().__init__()
        self.ch, temb = ch, 4 * ch
        self.temb = nn.Module()
        self.temb.dense = nn.ModuleList([nn.Linear(ch, temb), nn.Linear(temb, temb)])
        self.conv_in = nn.Conv2d(size, ch, 3, padding=1)
        self.down: Any = nn.ModuleList()
        width, skips = ch, [ch]
        for index, factor in enumerate(mult):
            blocks = []
            for _ in range(2):
                blocks.append(Block(width, ch * factor, temb, groups))
                width = ch * factor
                skips.append(width)
            self.down.append(level(blocks, width, index in attended, groups))
            if index < len(mult) - 1:
                self.down[-1].downsample = Resample(width, up=False)
                skips.append(width)
        self.mid = middle(width, temb, groups)
        up: list[Any] = []
        for index in reversed(range(len(mult))):
            blocks = []
            for _ in range(3):
                blocks.append(Block(width + skips.pop(), ch * mult[index], temb, groups))
                width = ch * mult[index]
            up.insert(0, level(blocks, width, index in attended, groups))
            if index:
                up[0].upsample = Resample(width, up=True)
        self.up: Any = nn.ModuleList(up)
        self.norm_out = nn.GroupNorm(groups, ch, eps=1e-6)
        self.conv_out = nn.Conv2d(ch, size, 3, padding=1)

    def forward(self, x: Tensor, timestep: Tensor) -> Tensor:
        first, second = self.temb.dense  # type: ignore[misc]
        temb = second(silu(first(sines(timestep, self.ch, x.dtype))))
        skips = [self.conv_in(x)]
        for stage in self.down:
            for index, block in enumerate(stage.block):
                h = block(skips[-1], temb)
                skips.append(stage.attn[index](h) if len(stage.attn) else h)
            if hasattr(stage, "downsample"):
                skips.append(stage.downsample(skips[-1]))
        h = through_middle(self.mid, skips[-1], temb)
        for stage in reversed(self.up):
            for index, block in enumerate(stage.block):
                h = block(torch.cat([h, skips.pop()], 1), temb)
                h = stage.attn[index](h) if len(stage.attn) else h
            h = stage.upsample(h) if hasattr(stage, "upsample") else h
        return self.conv_out(silu(self.norm_out(h)))  # type: ignore[no-any-return]
