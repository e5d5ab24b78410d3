"""Scales as a small network of the timestep.

J. So, J. Lee, D. Ahn, H. Kim, E. Park: Temporal Dynamic Quantization for Diffusion Models, NeurIPS 2023, arXiv:2306.02316.
Implemented: the encoding of the timestep (eq. 8, up to the order of its entries), the network on it (linear layers with ReLU,
softplus at the end), the start at the static optimum, and the table that remains once it is trained.
Compared with the fork sally20921/LDM-Q @ 32171f2 (the authors' repository is not to be had).
Deliberate deviations: no dropout, so that a trained network and its table are the same function; the last layer's weights
start at zero, so that the start is the static scale exactly and not only nearly; the output is multiplied by the static
scale (softplus gives s(t)/s_0, not s(t)), so that one learning rate suits quantizers of any range; in a training the network learns at
the rate of scales and without decay (released: at that of weights, with decay 0.01), and weights have the codes of `scheme=lsq`, 15 and 7 at four and three
bits (released: one fewer on either side, 13 and 5). The paper does not say
what becomes of the zero point: as `range` of the scheme says, the lower end moves with the scale, stays where calibration put it (see `low_end`), or learns as well
(a second output of the network). Eq. 8 as printed ends with the pair of exponent d/d, which would be dimension d + 2: here the last one is (d-2)/d.
"""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from dmq_cli.ops import double, smallest_scale
from dmq_cli.quant.context import StepContext
from dmq_cli.quant.low_end import LowEnd, WithLowEnd, put
from dmq_cli.quant.scales import Intervals, check_batch

START = math.log(math.e - 1)
"""What is added to the output of the network: softplus of it is 1."""


class StepMLP(WithLowEnd):
    """scale(timestep) = scale_0 * softplus(ln(e - 1) + network(encoding(timestep))); one zero point for all timesteps, or one
    lower end, or low(timestep) = low_0 * softplus(...) of the network's second output."""

    groups = 1
    varies = True
    tabulated: ClassVar[tuple[str, ...]] = ("start", "net")
    """Its tensors that `frozen` turns into a table, by the first part of their names; one "start" for each network."""

    start: Tensor

    def __init__(
        self,
        context: StepContext,
        dim: int = 64,
        width: int = 64,
        layers: int = 4,
        period: float = 10_000.0,
        total: int = 1000,
        low_end: LowEnd | None = None,
    ) -> None:
        """dim: of the encoding, even; width: of the hidden layers; layers: linear layers in all; total: timesteps; low_end:
        see `Ends`."""
        super().__init__()
        self.context, self.dim, self.period, self.total = context, dim, period, total
        # Not nn.Linear: that would be a layer of the network that is quantized, and draw from torch's global generator.
        outputs = 2 if low_end is not None and low_end.learned else 1
        self.net = nn.ParameterList(_he([dim, *[width] * (layers - 1), outputs]))
        self.register_buffer("start", torch.ones(()))
        self._store_low(low_end, self.start, torch.zeros(()))
        self.given: Tensor | None = None
        """The network's outputs for the current batch, (B or 1, outputs), where somebody computes those of all quantizers at once."""

    def scales(self, timestep: Tensor) -> Tensor:
        """The scale at each of the timesteps (B,): (B,), at least 1e-8."""
        return self._scales(self._factors(timestep))

    def _scales(self, factors: Tensor) -> Tensor:
        scale = (self.start * factors[:, 0]).to(self.start)
        return scale.clamp_min(smallest_scale(scale.dtype))

    def _zero_points(self, factors: Tensor, scale: Tensor) -> Tensor:
        """(B,), or () where it is stored."""
        if self.low_end is None or not self.low_end.learned:
            return self._zero_point(scale)
        return self.low_end.zero_point((self.low * factors[:, 1]).to(self.low), scale)

    def _factors(self, timestep: Tensor) -> Tensor:
        """softplus of the network, (B, outputs), 1 at the start.

        Computed in float64, so that in float32 a timestep's scale does not depend on the others in the batch.
        """
        value = encode(timestep, self.dim, self.period)
        pairs = [double(parameter) for parameter in self.net]
        for number, (weight, bias) in enumerate(zip(pairs[::2], pairs[1::2], strict=True)):
            value = nn.functional.linear(value.relu() if number else value, weight, bias)
        factors = nn.functional.softplus(value + START)
        return factors if factors.device == self.start.device else factors.to(self.start)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, ...). The scale is (B, 1, ...), or (1, 1, ...) for a shared timestep; so is the zero point, or it is a scalar.

        ValueError if the context holds another number of timesteps; RuntimeError outside of its scope.
        """
        timestep = self.context.timestep
        check_batch(self, timestep, x)
        factors = self._factors(timestep) if self.given is None else self.given
        scale = self._scales(factors)
        zero_point, ones = self._zero_points(factors, scale), (1,) * (x.ndim - 1)
        return scale.view(-1, *ones), zero_point.view(-1, *ones) if zero_point.ndim else zero_point

    def rows(self, samples: int) -> Tensor:
        """All in one group: it is fitted to the static optimum over all timesteps."""
        return torch.zeros(samples, dtype=torch.int64)

    @torch.no_grad()
    def fill(self, scale: Tensor, zero_point: Tensor, low: Tensor | None = None) -> None:
        """Start at these, one element each, at every timestep."""
        put(self.start, scale)
        self._fill_low(scale, zero_point, low)

    def learnable(self) -> list[nn.Parameter]:
        """Weights and biases of the network, layer by layer."""
        return list(self.net)

    def low_ends(self) -> list[nn.Parameter]:
        """Nothing: the network gives the lower end as well."""
        return []

    def bounds(self) -> list[tuple[nn.Parameter, float]]:
        """Nothing: its scales are relative to the static one already, and softplus keeps them positive."""
        return []

    @torch.no_grad()
    def frozen(self) -> Intervals:
        """The same scales as a table with a row for every timestep: nothing is computed when sampling."""
        factors = self._factors(torch.arange(self.total, device=self.start.device))
        scale = self._scales(factors)
        return Intervals(self.context, scale, self._zero_points(factors, scale).expand(self.total), self.total)


def encode(timestep: Tensor, dim: int, period: float) -> Tensor:
    """Eq. 8: sine and cosine of timestep / period^(2i/dim), i = 0 .. dim/2 - 1. timestep (B,); returns (B, dim), float64,
    first all sines, then all cosines.
    """
    half, timestep = dim // 2, double(timestep)
    frequency = period ** (-torch.arange(half, dtype=torch.float64, device=timestep.device) * 2 / dim)
    angle = timestep[:, None] * frequency
    return torch.cat([angle.sin(), angle.cos()], dim=1)


def _he(sizes: list[int]) -> list[nn.Parameter]:
    """Weight and bias of each layer: He initialisation from a fixed seed, zero biases.

    The last weight is zero, so that the scale is the static one, and the lower end where it was. No gradients, as for other sources, until it learns.
    """
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(b, a, generator=generator) * (2 / a) ** 0.5 for a, b in itertools.pairwise(sizes)]
    weights[-1].zero_()
    tensors = [tensor for weight in weights for tensor in (weight, torch.zeros(len(weight)))]
    return [nn.Parameter(tensor, requires_grad=False) for tensor in tensors]
