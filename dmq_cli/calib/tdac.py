"""Temporal distribution alignment calibration (TDAC).

Liu et al., Enhanced Distribution Alignment for Post-Training Quantization of Diffusion Models (EDA-DM), arXiv:2401.04585. F_t is
what the mid-block's attention reads at step t, for the first trajectories. With N trajectories:

    density  D_t = #{ j != t : mean((F_t - F_j)^2) <= radius }
    variety  V_t = sum over j != t of mean over samples and positions of (1 - cos(F_t, F_j)), cosine along the channels
    weight   w_t = minmax(D)_t + variety_weight minmax(V)_t
    counts   N_t = round(N w_t / sum w), repaired until they add up to N

and a random permutation gives every trajectory one step, at which its input is kept. The radius is an absolute mean square
distance, as released; the authors use 3.0 for CIFAR-10 and ImageNet, 0.3 for LSUN and COCO, and for variety_weight 1.2 for
CIFAR-10 and ImageNet, 1.0 for LSUN, 5.0 for COCO; N = 1024, COCO 256.

Deviations from the released code: V is a mean over samples and positions, not a sum, which min-max normalisation undoes; where
all D or all V are equal they count as 0 (released: 0/0), and where all weights are 0 every step weighs the same; ties in
the repair go to the noisier step (released: undefined order); F comes from feature_samples trajectories whatever the batch size
(released: the first batch).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from dmq_cli.calib.strategy import Features, OnePerTrajectory, generator
from dmq_cli.errors import ConfigError
from dmq_cli.sampling import Scheduler, parse_range


@dataclass(frozen=True)
class Tdac(OnePerTrajectory):
    """Keeps one input of each trajectory, more often at steps whose features are like many others' or unlike all others'.

    seeds: a range like "1000000-1001023". radius: mean square distance of steps that count as alike. variety_weight: lambda.
    feature_samples: how many trajectories, the first ones, the features are taken from; all if there are fewer.
    """

    radius: float = 3.0
    variety_weight: float = 1.2
    feature_samples: int = 64
    draw_seed: int = 0

    def check(self, sampler_scheduler: Scheduler) -> None:
        """Raise ConfigError for an impossible radius, weight, number of samples or seed."""
        for name, value in (("radius", self.radius), ("variety_weight", self.variety_weight)):
            if not 0 <= value < math.inf:
                raise ConfigError(f"calib.{name}={value} is not possible; use a finite number, at least 0.")
        if self.feature_samples < 1:
            raise ConfigError(f"calib.feature_samples={self.feature_samples} gives no features; use at least 1.")
        generator(self.draw_seed)

    def evaluations(self, total: int) -> int:
        """Every call of every trajectory, and of the trajectories that the features come from once more."""
        num = len(parse_range(self.seeds))
        return (num + min(num, self.feature_samples)) * total

    def choose(self, scheduler: Scheduler, features: Features) -> list[list[int]]:
        """One call for each trajectory."""
        num = len(parse_range(self.seeds))
        num_by_step = counts(self.weights(features(self.feature_samples)), num)
        calls = torch.arange(len(num_by_step)).repeat_interleave(num_by_step)
        return calls[torch.randperm(num, generator=generator(self.draw_seed))].reshape(-1, 1).tolist()

    def weights(self, features: Iterable[Tensor]) -> Tensor:
        """w (S,) float64. features: pieces (S, B, C, ...), one after the other, so that memory does not grow with them."""
        num, apart, various = 0, torch.zeros(()), torch.zeros(())
        for piece in features:
            size = piece.shape[1]
            num, apart, various = num + size, apart + size * distances(piece), various + size * variety(piece)
        return min_max(density(apart / num, self.radius)) + self.variety_weight * min_max(various / num)


def distances(features: Tensor) -> Tensor:
    """Mean square distance of every two steps, (S, S) float64, 0 on the diagonal. features (S, ...)."""
    flat = features.flatten(1).double()
    return torch.stack([(flat - row).square().mean(dim=1) for row in flat])


def density(apart: Tensor, radius: float) -> Tensor:
    """Count the other steps that are at most `radius` away, (S,) float64. apart: distances, (S, S)."""
    return ((apart <= radius).sum(dim=1) - 1).double()


def variety(features: Tensor) -> Tensor:
    """Cosine distance to the other steps, summed over steps, mean over samples and positions, (S,) float64. features (S, B, C, ...)."""
    unit = normalize(features.double(), dim=2)
    flat = unit.flatten(1)
    cosine = flat @ flat.T / (unit.numel() / unit.shape[0] / unit.shape[2])
    return (1 - cosine).fill_diagonal_(0).sum(dim=1)


def min_max(values: Tensor) -> Tensor:
    """Normalise to 0..1; zeros where all are equal but for rounding."""
    low, high = values.aminmax()
    return (values - low) / (high - low) if high - low > 1e-9 else torch.zeros_like(values)


def counts(weights: Tensor, num: int) -> Tensor:
    """Share `num` among the steps, (S,) int64 >= 0 that add up to num. weights: (S,), finite, >= 0.

    Each share is rounded to nearest, half to even; then what is missing goes one by one to the largest, or what is too much is
    taken one by one from the last that have any.
    """
    relative = weights.double() / weights.max() if weights.max() > 0 else torch.ones_like(weights, dtype=torch.float64)
    shares = (num * relative / relative.sum()).round().long()
    missing = num - int(shares.sum())
    if missing >= 0:
        shares[shares.argsort(descending=True, stable=True)[:missing]] += 1
    else:
        shares[shares.nonzero().flatten()[missing:]] -= 1
    return shares
