"""Group normalisation in sums over the pixels of each channel, for a runtime that keeps channels last.

Integer convolutions want the channels of a pixel side by side, and a runtime's own group normalisation wants the pixels of a channel so: before
each of them every activation would be moved in memory, in floating point, and back. In sums nothing is moved:

    y = (x - mean) gamma / sqrt(var + eps) + beta,  mean and var = |x - mean|_2^2 / n over the n numbers of a group.

Not |x|_2^2 / n - mean^2, which saves 2 % of a call of ddim_cifar10 and has no digit left where the mean is a thousand times the spread.
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
        by_channel = (*x.shape[:2], 1, 1)
        mean = self._grouped(x.mean((2, 3))).expand(-1, -1, self.weight.shape[2])
        centred = x - mean.reshape(by_channel)
        squares = torch.linalg.vector_norm(centred, dim=(2, 3)).square()
        variance = self._grouped(squares) / (x.shape[2] * x.shape[3])
        factor = self.weight * torch.rsqrt(variance + self.eps)
        return centred * factor.view(by_channel) + self.bias.view(1, -1, 1, 1)

    def _grouped(self, by_channel: Tensor) -> Tensor:
        """Means over the channels of each group, (B, G, 1), of (B, C)."""
        return by_channel.view(by_channel.shape[0], self.groups, -1).mean(2, keepdim=True)


def in_sums(model: nn.Module) -> None:
    """Replace every group normalisation of a network."""
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.GroupNorm):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, GroupNormBySums(module))
