"""Timestep-channel joint reparameterisation (TCR): the input channels of a convolution are brought to one range.

Huang et al., TCAQ-DM: Timestep-Channel Adaptive Quantization for Diffusion Models, AAAI 2025, arXiv:2412.16700; the main text
was at hand in summaries only, its supplement in full. With m_tc = max |X_tc| over samples and positions at timestep t:

    r_tc = m_tc / min_c' m_tc'
    r_c = sum_t m_tc r_tc / sum_t m_tc, clamped to [1, clamp]
    conv(X, W) = conv(X / r, W r)

The least channel is the target, so nothing grows, whatever the timestep; and since timesteps weigh as much as their range, r
follows the few at which a channel spikes, and the spike comes down to the range of the others. The clamp is the supplement's:
large r cost accuracy where weights have few bits (Table A: 5 is best of 100, 50, 10, 5, 3 at W4A8). On the embedded model 5 leaves 58
to 90 % of the channels of 10 of 22 layers at the clamp, so that all of a layer shrinks and little is balanced; tcaq_figb has 100 beside it.

Where the multiply goes: between the norm and these convolutions stands a SiLU, and silu(x / r) is not silu(x) / r, so 1/r
cannot be folded into the affine of the norm. It stays an explicit multiply at the input of the convolution. It is free where it
is fused into the activation quantizer, which then quantizes channel c with r_c times the common scale; codes are as before,
so an integer product carries it. W r is computed offline.

Choices and deviations: `groups` is read as one m for each run of neighbouring timesteps, as equally long as they can be (the
summary says no more than that timesteps are grouped uniformly); a channel that is zero at a timestep is left out of the minimum
there, and one that is zero at all of them gets r = 1; of the convolutions all are taken whose role fits `match`, by
default those of residual blocks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.models import Adapter
from dmq_cli.ops import double
from dmq_cli.transform.base import BatchReport, Data, check_match, matching
from dmq_cli.transform.statistics import channel_maxima


@dataclass(frozen=True)
class Tcr:
    """TCR. groups: of timesteps, None for one each; clamp: the greatest r; match: patterns of roles, separated by "|".

    Raises ConfigError for impossible values.
    """

    groups: int | None = None
    clamp: float = 5.0
    match: str = "resnet.conv*"

    def __post_init__(self) -> None:
        if self.groups is not None and self.groups < 1:
            raise ConfigError(
                f"transform.groups={self.groups} is not possible; use at least 1, or null for every timestep."
            )
        if not 1 <= self.clamp < math.inf:
            raise ConfigError(f"transform.clamp={self.clamp} is not possible; use a finite number, at least 1.")
        check_match(self.match)

    def estimate(self, adapter: Adapter, data: Data, report: BatchReport = lambda done: None) -> dict[str, Tensor]:
        """Estimate `<layer>.channel_scale` (in,), r >= 1 without unit, of every layer that fits.

        Raises ConfigError if none fits, NumericsError for inputs that are not finite.
        """
        names = [layer.name for layer in matching(adapter, self.match)]
        maxima = channel_maxima(adapter, data, names, report)
        return {f"{name}.channel_scale": self.scale(maxima[name][1]) for name in names}

    def shapes(self, adapter: Adapter) -> dict[str, Tensor]:
        """See Transform."""
        weights = {x.name: adapter.model.get_parameter(f"{x.name}.weight") for x in matching(adapter, self.match)}
        return {f"{name}.channel_scale": torch.empty(w.shape[1], device="meta") for name, w in weights.items()}

    def cost(self, samples: float) -> float:
        """See Transform: one pass over the whole set."""
        return samples

    def scale(self, maxima: Tensor) -> Tensor:
        """r (C,) in [1, clamp], in the dtype of maxima, which is (T, C), >= 0, a row for each timestep in order."""
        runs = torch.tensor_split(double(maxima), min(self.groups or len(maxima), len(maxima)))
        return joint_scale(torch.stack([run.amax(0) for run in runs])).clamp(1, self.clamp).to(maxima)


def joint_scale(maxima: Tensor) -> Tensor:
    """r (C,), at least 1 without a clamp, in float64: see the head. maxima: (T, C), >= 0."""
    table = maxima.double()
    least = table.where(table > 0, torch.inf).amin(1, keepdim=True)
    total = table.sum(0)
    return torch.where(total > 0, (table * (table / least)).sum(0) / total, 1.0)
