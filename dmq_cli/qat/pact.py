"""A learned clipping value.

Choi et al.: PACT: Parameterized Clipping Activation for Quantized Neural Networks, 2018, arXiv:1805.06085.
Implemented: y = clip(x, 0, alpha) (eq. 1), quantized with step alpha / (2^b - 1) (eq. 2); the gradient of alpha is 1 for x >= alpha and 0
elsewhere (eq. 3), which leaves out the rounding error that LSQ adds; L2 decay of alpha (sec. 3.2), which alone makes it smaller.
Deliberate deviations: where inputs are negative (SiLU, linear outputs) the lower end is not 0 but stays where calibration put it, as the
paper has only ReLU networks; weights are symmetric, per layer, with the range of their greatest magnitude at every step: the paper takes
DoReFa's, whose tanh and normalisation to [-1, 1] would change a trained network without batch norm. With Adam, which takes steps of one
length, the decay outweighs what is clipped in nearly every tensor, since the loss is a mean of squares far below the paper's cross-entropy.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.ops import Rounding, clip_to
from dmq_cli.qat.stand_ins import StandIns
from dmq_cli.quant import Grid, ScaleSource, Static, Uniform, source_of
from dmq_cli.wrap import Attached

_NOTHING = torch.zeros(())  # static scales do not read their input


@dataclass(frozen=True)
class Pact:
    """Ends of activations' ranges learn from clipping. decay: weight of the sum of their squares in the loss; ConfigError below 0."""

    decay: float = 1e-4
    weight_scales = False

    def __post_init__(self) -> None:
        if self.decay < 0:
            raise ConfigError(f"Pact was asked for decay={self.decay}; use at least 0.")

    def start(self, attached: Attached) -> StandIns:
        """See Gradients."""
        return _Clipping(attached, self.decay)


class _Clipping(StandIns):
    def __init__(self, attached: Attached, decay: float) -> None:
        super().__init__(attached)
        self.decay = decay
        uniform = [quantizer for quantizer in self.activations if isinstance(quantizer.grid, Uniform)]
        self.static = [(q.grid, q.scale) for q in uniform if isinstance(q.scale, Static)]
        for quantizer in uniform:
            self.replace(quantizer, "grid", ClippedGrid)
        for quantizer in self.weights:
            self.replace(quantizer, "scale", partial(FromMaximum, grid=quantizer.grid))

    def penalty(self) -> Tensor | None:
        if not (self.decay and self.static):
            return None
        upper_ends = [upper_end(grid, *source(_NOTHING)) for grid, source in self.static]
        return self.decay * torch.stack([end.square().sum() for end in upper_ends]).sum()

    @torch.no_grad()
    def finish(self) -> None:
        super().finish()
        for _, quantizer, weight, _ in self.attached.weight_pieces():
            scale, zero_point = FromMaximum(source_of(quantizer), quantizer.grid)(weight)
            source_of(quantizer).fill(scale, zero_point, None)


class FromMaximum(nn.Module):
    """Stands in for the scales of one weight: at every call its greatest magnitude, or that of each channel, without a gradient."""

    varies = False

    def __init__(self, source: ScaleSource, grid: Grid) -> None:
        super().__init__()
        self._source, self.grid = [source], grid

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """See ScaleSource."""
        scale, _ = self._source[0](x)
        shared = [dimension for dimension, size in enumerate(scale.shape) if size == 1] or list(range(x.ndim))
        reach = x.detach().abs().amax(shared, keepdim=True)
        return self.grid.parameters(-reach, reach)


@dataclass(frozen=True)
class ClippedGrid:
    """Stands in for the grid of a quantizer: the same values, but a scale has the gradient of its clipping alone."""

    base: Grid

    @property
    def bits(self) -> int:
        """See Grid."""
        return self.base.bits

    @property
    def lo(self) -> int:
        """See Grid."""
        return self.base.lo

    @property
    def hi(self) -> int:
        """See Grid."""
        return self.base.hi

    def parameters(self, minimum: Tensor, maximum: Tensor) -> tuple[Tensor, Tensor]:
        """See Grid."""
        return self.base.parameters(minimum, maximum)

    def codes(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """See Grid."""
        return self.base.codes(x, scale, zero_point, rounding)

    def fake(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        """See Grid."""
        return self.base.fake(x, scale, zero_point)

    def __call__(self, x: Tensor, scale: Tensor, zero_point: Tensor, rounding: Rounding) -> Tensor:
        """See Grid."""
        clipped = clip_to(x, *ends(self, scale, zero_point))
        with torch.no_grad():
            error = self.base(x, scale, zero_point, rounding).sub_(clipped)
        return clipped + error


def ends(grid: Grid, scale: Tensor, zero_point: Tensor) -> tuple[Tensor, Tensor]:
    """Of a range: the least and the greatest value of its grid."""
    return (grid.lo - zero_point) * scale, upper_end(grid, scale, zero_point)


def upper_end(grid: Grid, scale: Tensor, zero_point: Tensor) -> Tensor:
    """alpha: the greatest value of a grid."""
    return (grid.hi - zero_point) * scale
