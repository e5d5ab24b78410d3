"""Scale sources: `source(x) -> (scale, zero_point)`, both broadcastable to x."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.ops import scale_gradient, smallest_scale
from dmq_cli.quant.context import StepContext
from dmq_cli.quant.grids import Grid


class Static(nn.Module):
    """One scale and zero point for all steps and inputs; the scale can be learned."""

    zero_point: Tensor

    def __init__(
        self,
        scale: Tensor | float,
        zero_point: Tensor | float = 0.0,
        learn: bool = False,
        lsq: bool = False,
        levels: int | None = None,
    ) -> None:
        """scale (> 0) and zero_point (integer-valued): broadcastable to the inputs.

        lsq multiplies the gradient of a learned scale by 1/sqrt(numel * levels), numel that of the input and
        levels the highest code of the grid (Esser et al. 2020, LSQ, sec. 2.2). ConfigError for lsq without
        learn or levels.
        """
        super().__init__()
        if lsq and not (learn and levels):
            raise ConfigError(
                f"Static was asked for lsq=True with learn={learn} and levels={levels}; "
                "LSQ needs learn=True and the highest code of the grid as levels."
            )
        value = torch.as_tensor(scale).detach().clone()
        self.scale = nn.Parameter(value, requires_grad=learn)
        self.register_buffer("zero_point", torch.as_tensor(zero_point).detach().clone().to(value))
        self.learn = learn
        self.levels = levels if lsq else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stored pair; a learned scale is at least 1e-8."""
        scale = _learned(self.scale) if self.learn else self.scale
        if self.levels is not None:
            scale = scale_gradient(scale, (x.numel() * self.levels) ** -0.5)
        return scale, self.zero_point


class PerStep(nn.Module):
    """A table with a row of scale and zero point per step; the StepContext picks the row of each sample."""

    zero_point: Tensor

    def __init__(self, context: StepContext, scale: Tensor, zero_point: Tensor, learn: bool = False) -> None:
        """scale (> 0) and zero_point (integer-valued): (S,) or (S, ...), a row for each step.

        A row's dimensions are the first ones of a sample: (S, C) has a scale per channel of (B, C, H, W).
        ConfigError where the two shapes differ.
        """
        super().__init__()
        if scale.ndim == 0 or scale.shape != zero_point.shape:
            raise ConfigError(
                f"PerStep was given scales of shape {tuple(scale.shape)} and zero points of shape "
                f"{tuple(zero_point.shape)}; both need the same shape, with one row per step."
            )
        self.context = context
        self.scale = nn.Parameter(scale.detach().clone(), requires_grad=learn)
        self.register_buffer("zero_point", zero_point.detach().clone().to(scale))
        self.learn = learn

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, ...). Both results have as many dimensions, the first of size B, or 1 for a shared step.

        ValueError if the context holds another number of steps; RuntimeError outside of its scope.
        """
        step = self.context.step
        if step.shape[0] != 1 and step.shape[0] != x.shape[0]:
            raise ValueError(
                f"PerStep was called with {x.shape[0]} sample(s), the StepContext holds {step.shape[0]} "
                "steps; set one step for all or one per sample."
            )
        scale = _learned(self.scale) if self.learn else self.scale
        return _rows(scale, step, x.ndim), _rows(self.zero_point, step, x.ndim)


class Dynamic(nn.Module):
    """Min-max of the input itself, per tensor, at each call. No gradient; depends on the whole batch."""

    def __init__(self, grid: Grid) -> None:
        """grid: the one of the quantizer this is for."""
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scalars that cover x, which has at least one element."""
        minimum, maximum = torch.aminmax(x.detach())
        return self.grid.parameters(minimum, maximum)


def _learned(scale: Tensor) -> Tensor:
    # An optimiser knows no bounds.
    return scale.clamp_min(smallest_scale(scale.dtype))


def _rows(table: Tensor, step: Tensor, ndim: int) -> Tensor:
    rows = table.index_select(0, step)
    return rows.reshape(rows.shape + (1,) * (ndim - rows.ndim))
