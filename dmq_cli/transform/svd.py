"""Low-rank branches for outliers: smoothing moves them into the weight, whose largest singular values stay in 16 bit.

Li et al., SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models, ICLR 2025, arXiv:2411.05007:

    lambda_c = max |X_c|^alpha / max |W_c|^(1 - alpha)                          c: input channels
    W lambda = U S V^T,   up = U_r sqrt(S_r),   down = sqrt(S_r) V_r^T
    W X = up down (X / lambda) + (W lambda - up down) (X / lambda)

The first term is computed in 16 bit from the unquantized X / lambda, the second with both factors quantized. Of a convolution
the weight is decomposed as (out, in k k): down is a convolution of the same geometry to `rank` channels, up one of 1x1.

Choices and deviations: up and down are rounded through float16 before the residual W lambda - up down is formed, so that
full precision stays what it was; alpha is one number, the same for all layers, not searched; max |X_c| and max |W_c| are raised to
1e-5 of the layer's largest, so that a dead channel gets a finite lambda; the rank is at most half the smaller dimension of
the weight, since the layers here are small; edges and time embedding have no branch by default.

Compared with mit-han-lab/deepcompressor @ 69f3473 (calib/lowrank.py, calib/smooth.py, examples/diffusion/configs/svdquant). The equations
agree; what it does besides, by layer and by the error of the layer's quantized output: it tries alpha in twentieths, each with
1 - alpha and with 0 as the exponent of W; and it takes the branch of W - Q(W - up down) again, up to 100 times while that helps.
A transform here is made before a scheme is known, so neither can be. It has rank 32; one branch for query, key and value together;
groups of 64 elements with scales of their own, of activations found as they come and unsigned after a shift where they allow it; and no
branch nor smoothing at residual blocks, projections around transformers and resampling (match: attn.to_*|ff.*), which are the
greater part of the networks here. So its four-bit results are not to be expected of scheme=qdiffusion with one scale a tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import Adapter
from dmq_cli.ops import PerChannel, double
from dmq_cli.transform.base import BatchReport, Data, check_match, matching
from dmq_cli.transform.statistics import channel_maxima

_LEAST = 1e-5  # of the largest channel


@dataclass(frozen=True)
class LowRank:
    """Low-rank branches. rank: of a branch, at most; alpha: how much of the input's range moves into the weight, 0 to 1.

    match: patterns of roles, separated by "|". Raises ConfigError for impossible values.
    """

    rank: int = 16
    alpha: float = 0.5
    match: str = "resnet.*|attn.to_*|ff.*|transformer.*|down.conv|up.conv"

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"transform.rank={self.rank} is not possible; use at least 1.")
        if not 0 <= self.alpha <= 1:
            raise ConfigError(f"transform.alpha={self.alpha} is not possible; use a number from 0 to 1.")
        check_match(self.match)

    @torch.no_grad()
    def estimate(self, adapter: Adapter, data: Data, report: BatchReport = lambda done: None) -> dict[str, Tensor]:
        """Estimate `<layer>.channel_scale` (in,), `.branch_down` (rank, in, ...) and `.branch_up` (out, rank) of fitting layers.

        A weight with a dimension of 1 gets no branch. Raises ConfigError if no layer fits, NumericsError for inputs that
        are not finite or a branch that float16 cannot hold.
        """
        names = [layer.name for layer in matching(adapter, self.match)]
        maxima, tensors = channel_maxima(adapter, data, names, report), {}
        for name in names:
            weight = adapter.model.get_parameter(f"{name}.weight")
            scale = smoothing(maxima[name][1].amax(0), PerChannel(1).grouped(weight).abs().amax(1), self.alpha)
            tensors[f"{name}.channel_scale"] = scale.to(weight)
            if rank := self.rank_of(weight):
                smoothed = weight * scale.to(weight).view(-1, *(1,) * (weight.dim() - 2))
                tensors[f"{name}.branch_down"], tensors[f"{name}.branch_up"] = branch(name, smoothed, rank)
        return tensors

    def shapes(self, adapter: Adapter) -> dict[str, Tensor]:
        """See Transform."""
        tensors: dict[str, Tensor] = {}
        for layer in matching(adapter, self.match):
            weight = adapter.model.get_parameter(f"{layer.name}.weight")
            tensors[f"{layer.name}.channel_scale"] = torch.empty(weight.shape[1], device="meta")
            if rank := self.rank_of(weight):
                tensors[f"{layer.name}.branch_down"] = torch.empty(rank, *weight.shape[1:], device="meta")
                tensors[f"{layer.name}.branch_up"] = torch.empty(len(weight), rank, device="meta")
        return tensors

    def cost(self, samples: float) -> float:
        """See Transform: one pass over the whole set."""
        return samples

    def rank_of(self, weight: Tensor) -> int:
        """The rank of the branch beside this weight; 0: none."""
        return min(self.rank, min(weight.flatten(1).shape) // 2)


def smoothing(inputs: Tensor, weights: Tensor, alpha: float) -> Tensor:
    """lambda (C,) > 0, float64. inputs, weights: max |X_c| and max |W_c|, (C,); ones where one of them is all zero."""
    inputs, weights = double(inputs), double(weights)
    if not bool(inputs.any() and weights.any()):
        return torch.ones_like(inputs)
    inputs, weights = (x.clamp_min(_LEAST * float(x.max())) for x in (inputs, weights))
    return inputs**alpha / weights ** (1 - alpha)


def branch(name: str, weight: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Split down (rank, in, ...) and up (out, rank) off a weight, values of float16 in the weight's dtype; up @ down is near it.

    Nearest of that rank in the Frobenius norm but for the rounding (Eckart and Young 1936). weight: (out, in, ...).
    Raises NumericsError where a value is not finite, or lies beyond 65504.
    """
    left, values, right = torch.linalg.svd(double(weight.flatten(1)), full_matrices=False)
    root = values[:rank].sqrt()
    up, down = (left[:, :rank] * root).half(), (root[:, None] * right[:rank]).half()
    if not bool(up.isfinite().all() and down.isfinite().all()):
        raise NumericsError(
            f"The low-rank branch of {name} has values that float16 cannot hold; check the weights of the model."
        )
    return down.to(weight).view(rank, *weight.shape[1:]), up.to(weight)
