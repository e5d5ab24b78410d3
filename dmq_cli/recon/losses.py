"""Distances between a unit's output and its target, and the rounding regulariser's schedule."""

from __future__ import annotations

import torch
from torch import Tensor


def lp_loss(output: Tensor, target: Tensor, p: float) -> Tensor:
    """Mean over everything but dim 1 of the sum over dim 1 of |output - target|^p.

    The reduction of the released BRECQ code: the weight of the rounding regulariser is tuned to it. For transformer blocks, whose
    output is (B, places, C), it sums over places, there as here: against the regulariser such a block weighs places / C of what
    `channel_loss` would give it. Linear projections that are units of their own (units=layers) do so too, where the released
    codes for pixel networks have convolutions.
    """
    return (output - target).abs().pow(p).sum(1).mean()


def channel_loss(output: Tensor, target: Tensor, p: float) -> Tensor:
    """Mean over samples and places of the sum over channels of |output - target|^p.

    output, target: (B, C), (B, places, C) or (B, C, ...). A scalar; `lp_loss` but for (B, places, C).
    """
    error = (output - target).abs().pow(p)
    return error.sum(-1 if error.ndim == 3 else 1).mean()


def mean_error(output: Tensor, target: Tensor, timesteps: Tensor) -> Tensor:
    """Sum over channels of the squared mean error: the mean over the samples of a timestep and over places, then over the samples.

    output, target: (B, C), (B, places, C) or (B, C, ...); timesteps: (B,) or (1,). A scalar.

    An error that all samples of a timestep share adds up while sampling, where the squared error of each sample says nothing about
    whether they share it. Of this project; in a batch of N samples a mean error of zero still gives the N-th part of a variance.
    """
    error = output - target
    error = error.transpose(1, 2) if error.ndim == 3 else error[..., None].flatten(2)
    timesteps, group = torch.unique(timesteps.expand(len(error)), return_inverse=True)
    counts = torch.bincount(group, minlength=len(timesteps)).to(error)
    sums = error.new_zeros(len(timesteps), error.shape[1]).index_add(0, group, error.mean(2))
    means = sums / counts[:, None]
    return (means.square().sum(1) * counts).sum() / len(error)


def beta_schedule(iteration: int, iterations: int, warmup: float, start: float, end: float) -> float | None:
    """Exponent of the rounding regulariser (Nagel et al., AdaRound, ICML 2020, eq. 24); None during the warm-up.

    Linear from start to end over the iterations after the first `warmup` fraction. The released codes count from 1 and so begin with the
    last iteration before: one of 16,000. Kept, as it would change every learned number for nothing.
    """
    begin = int(warmup * iterations)
    if iteration < begin:
        return None
    return start + (end - start) * (iteration - begin) / max(1, iterations - 1 - begin)
