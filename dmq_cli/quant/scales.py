"""Scale sources: `source(x) -> (scale, zero_point)`, both broadcastable to x.

Calibration asks a source how many ranges it is fitted to and hands them over; reconstruction, which parameters gradients may
change and which bounds those have; sampling takes what is left of it once nothing learns any more.
"""

from __future__ import annotations

from typing import Protocol, cast

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.ops import smallest_scale
from dmq_cli.quant.context import StepContext
from dmq_cli.quant.grids import Grid
from dmq_cli.quant.low_end import LowEnd, WithLowEnd, put

LEAST = 1e-8  # of a scale that is learned


class ScaleSource(Protocol):
    """What every source offers. All of them are modules."""

    groups: int
    """Ranges it is fitted to: 1, one for each row of a table, or 0 where there is nothing to fit."""

    @property
    def varies(self) -> bool:
        """Whether the scales depend on the step or the input."""
        ...

    def rows(self, samples: int) -> Tensor:
        """The group of each of `samples` samples of the current call, int64 (samples,)."""
        ...

    def fill(self, scale: Tensor, zero_point: Tensor, low: Tensor | None) -> None:
        """Take fitted values, one row for each group. low: the lower end of the range before the zero point was rounded;
        None: as scale and zero point have it."""
        ...

    def learnable(self) -> list[nn.Parameter]:
        """Parameters that decide the scales."""
        ...

    def bounds(self) -> list[tuple[nn.Parameter, float]]:
        """Those of `learnable` that are scales themselves, each with its least value.

        A learning rate that is relative to the size of scales is relative to theirs.
        """
        ...

    def low_ends(self) -> list[nn.Parameter]:
        """Those of `learnable` that are lower ends of ranges."""
        ...

    def frozen(self) -> nn.Module:
        """A source of the same scales and zero points that computes nothing it need not when sampling; may be itself."""
        ...

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point for x."""
        ...


class Static(WithLowEnd):
    """One scale and zero point for all steps and inputs; the scale can be learned, and the lower end of the range."""

    groups = 1
    varies = False

    def __init__(
        self,
        scale: Tensor | float,
        zero_point: Tensor | float = 0.0,
        learn: bool = False,
        low_end: LowEnd | None = None,
    ) -> None:
        """scale (> 0) and zero_point (integer-valued): broadcastable to the inputs. low_end: see `Ends`; None: `scale`."""
        super().__init__()
        value = torch.as_tensor(scale).detach().clone()
        self.scale = nn.Parameter(value, requires_grad=learn)
        self._store_low(low_end, value, torch.as_tensor(zero_point))
        self.learn = learn

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The stored pair; a learned scale is at least 1e-8."""
        scale = _learned(self.scale) if self.learn else self.scale
        return scale, self._zero_point(scale)

    def rows(self, samples: int) -> Tensor:
        """All in the one group."""
        return torch.zeros(samples, dtype=torch.int64)

    def fill(self, scale: Tensor, zero_point: Tensor, low: Tensor | None = None) -> None:
        """Any shape with as many elements as the stored pair."""
        put(self.scale, scale)
        self._fill_low(scale, zero_point, low)

    def learnable(self) -> list[nn.Parameter]:
        """The scale, and a lower end that learns."""
        return [self.scale, *self.low_ends()]

    def bounds(self) -> list[tuple[nn.Parameter, float]]:
        """The scale, at least 1e-8."""
        return [(self.scale, LEAST)]

    def frozen(self) -> Static:
        """Itself, or the zero point that follows from its lower end."""
        return self if self.low_end is None else Static(self.scale, self._zero_point(self.scale))


class PerStep(WithLowEnd):
    """A table with a row of scale and zero point per step; the StepContext picks the row of each sample."""

    varies = True

    def __init__(
        self,
        context: StepContext,
        scale: Tensor,
        zero_point: Tensor,
        learn: bool = False,
        low_end: LowEnd | None = None,
    ) -> None:
        """scale (> 0) and zero_point (integer-valued): (S,) or (S, ...), a row for each step. low_end: see `Ends`.

        A row broadcasts to one sample: (S, C, 1, 1) has a scale per channel of (B, C, H, W). ConfigError where the two
        shapes differ.
        """
        super().__init__()
        if scale.ndim == 0 or scale.shape != zero_point.shape:
            raise ConfigError(
                f"{type(self).__name__} was given scales of shape {tuple(scale.shape)} and zero points of shape "
                f"{tuple(zero_point.shape)}; both need the same shape, with one row per step."
            )
        self.context = context
        self.scale = nn.Parameter(scale.detach().clone(), requires_grad=learn)
        self._store_low(low_end, scale, zero_point)
        self.learn = learn

    @property
    def groups(self) -> int:
        """Rows of the table."""
        return len(self.scale)

    def index(self) -> Tensor:
        """The row of the current step, int64 (1,) or (B,). RuntimeError outside of the context's scope."""
        return self.context.step

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x: (B, ...). Both results have as many dimensions, the first of size B, or 1 for a shared step.

        ValueError if the context holds another number of steps; RuntimeError outside of its scope.
        """
        row = self.index()
        check_batch(self, row, x)
        scale = _learned(self.scale) if self.learn else self.scale
        return pick(scale, row, x.ndim), pick(self._zero_point(scale), row, x.ndim)

    def rows(self, samples: int) -> Tensor:
        """The row of each sample."""
        return self.index().cpu().expand(samples)

    def fill(self, scale: Tensor, zero_point: Tensor, low: Tensor | None = None) -> None:
        """One row for each step."""
        put(self.scale, scale)
        self._fill_low(scale, zero_point, low)

    def learnable(self) -> list[nn.Parameter]:
        """The table of scales, and that of lower ends that learn."""
        return [self.scale, *self.low_ends()]

    def bounds(self) -> list[tuple[nn.Parameter, float]]:
        """The table, at least 1e-8."""
        return [(self.scale, LEAST)]

    def frozen(self) -> PerStep:
        """Itself, or the zero points that follow from its lower ends."""
        return self if self.low_end is None else PerStep(self.context, self.scale, self._zero_point(self.scale))


class Intervals(PerStep):
    """A table whose rows cover equal intervals of the training timesteps: row floor(timestep * N / total).

    So et al., TDQ, NeurIPS 2023 (arXiv:2306.02316), Table 3 (S_N: N directly learned sets); with N = total every timestep
    has a row, and no timestep is off the grid.
    """

    def __init__(
        self, context: StepContext, scale: Tensor, zero_point: Tensor, total: int = 1000, learn: bool = False,
        low_end: LowEnd | None = None,
    ) -> None:  # fmt: skip
        """scale and zero_point: (N,) or (N, ...); total: timesteps of training; low_end: see `Ends`."""
        super().__init__(context, scale, zero_point, learn, low_end)
        self.total = total

    def index(self) -> Tensor:
        """The row of the current timestep; timesteps outside of training go to the first or last row."""
        return (self.context.timestep * self.groups // self.total).long().clamp(0, self.groups - 1)

    def frozen(self) -> Intervals:
        """See PerStep."""
        if self.low_end is None:
            return self
        return Intervals(self.context, self.scale, self._zero_point(self.scale), self.total)


class Dynamic(nn.Module):
    """Min-max of the input itself, of each sample, at each call, without gradient."""

    groups = 0
    varies = True

    def __init__(self, grid: Grid) -> None:
        """grid: the one of the quantizer this is for."""
        super().__init__()
        self.grid = grid

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 1, ...) that cover the samples of x (B, ...), which have at least one element each."""
        flat = x.detach().flatten(1)
        shape = (len(x),) + (1,) * (x.ndim - 1)
        scale, zero_point = self.grid.parameters(*torch.aminmax(flat, dim=1))
        return scale.view(shape), zero_point.view(shape)

    def rows(self, samples: int) -> Tensor:
        """There are no groups: RuntimeError."""
        raise RuntimeError("Dynamic scales have no groups to fit")

    def fill(self, scale: Tensor, zero_point: Tensor, low: Tensor | None = None) -> None:
        """There is nothing to fit: RuntimeError."""
        raise RuntimeError("Dynamic scales cannot be filled")

    def learnable(self) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def bounds(self) -> list[tuple[nn.Parameter, float]]:
        """Nothing."""
        return []

    def low_ends(self) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def frozen(self) -> Dynamic:
        """Itself."""
        return self


def check_batch(owner: nn.Module, step: Tensor, x: Tensor) -> None:
    """ValueError unless there is one step for all samples of x or one for each."""
    if step.shape[0] not in (1, x.shape[0]):
        raise ValueError(
            f"{type(owner).__name__} was called with {len(x)} sample(s), the StepContext holds {len(step)} steps; set one"
            " step for all or one per sample."
        )


def source_of(quantizer: nn.Module) -> ScaleSource:
    """The scale source of a TensorQuantizer, typed."""
    return cast(ScaleSource, quantizer.scale)


def pick(table: Tensor, row: Tensor, ndim: int) -> Tensor:
    """The rows of a table (S, ...) with ones put in behind the first dimension, so that there are `ndim` in all."""
    rows = table.index_select(0, row)
    return rows.reshape(rows.shape[:1] + (1,) * (ndim - rows.ndim) + rows.shape[1:])


def _learned(scale: Tensor) -> Tensor:
    # An optimiser knows no bounds.
    return scale.clamp_min(smallest_scale(scale.dtype))
