"""Group normalisation in sums over the pixels of each channel, for a runtime that keeps channels last.

Integer convolutions want the channels of a pixel side by side, and a runtime's own group normalisation wants the pixels of a channel so: before
each of them every activation would be moved in memory, in floating point, and back. In sums nothing is moved:

    y = a x + b,  a = gamma / sqrt(var + eps),  b = beta - mean a,  mean and var = (|x|_2^2 / n - mean^2) over the n numbers of a group.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNormBySums(nn.Module):
    """The same numbers as a group normalisation, up to the rounding of float32: in sums of images (B, C, H, W), else as before."""

    def __init__(self, norm: nn.GroupNorm) -> None:
        super().__init__()
        self.groups, self.eps = norm.num_groups, norm.eps
        channels = norm.num_channels
        weight, bias = (
            (norm.weight.detach(), norm.bias.detach()) if norm.affine else (torch.ones(channels), torch.zeros(channels))
        )
        # parameters, as before: of some networks they are the only ones left, and tell device and dtype
        self.weight = nn.Parameter(weight.view(1, self.groups, -1), requires_grad=False)
        self.bias = nn.Parameter(bias.view(1, self.groups, -1), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """x, normalised."""
        if x.ndim != 4:  # a sequence, which no convolution follows
            return nn.functional.group_norm(x, self.groups, self.weight.flatten(), self.bias.flatten(), self.eps)
        mean = self._grouped(x.mean((2, 3)))
        squares = self._grouped(torch.linalg.vector_norm(x, dim=(2, 3)).square()) / (x.shape[2] * x.shape[3])
        variance = torch.clamp(squares - mean.square(), min=0)
        factor = self.weight * torch.rsqrt(variance + self.eps)
        offset = self.bias - mean * factor
        by_channel = (*x.shape[:2], 1, 1)
        return x * factor.view(by_channel) + offset.view(by_channel)

    def _grouped(self, by_channel: Tensor) -> Tensor:
        """Means over the channels of each group, (B, G, 1), of (B, C)."""
        return by_channel.view(by_channel.shape[0], self.groups, -1).mean(2, keepdim=True)


def in_sums(model: nn.Module) -> None:
    """Replace every group normalisation of a network."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.GroupNorm):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, GroupNormBySums(module))
