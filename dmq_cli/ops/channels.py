"""Tensors of samples of any shape, channels first: what belongs to a channel, and what to a place."""

from __future__ import annotations

from torch import Tensor


def places(x: Tensor) -> tuple[int, ...]:
    """The dimensions behind batch and channels of (B, C, ...); none of (B, C)."""
    return tuple(range(2, x.dim()))


def with_places(x: Tensor) -> Tensor:
    """x (B, C, ...) with at least one dimension behind the channels."""
    return x if x.dim() > 2 else x[..., None]


def by_channel(values: Tensor, like: Tensor) -> Tensor:
    """values (C,) in the shape that broadcasts to `like`, (B, C, ...)."""
    return values.reshape(-1, *(1,) * (like.dim() - 2))
