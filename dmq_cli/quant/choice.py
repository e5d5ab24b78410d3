"""Several quantizers for one tensor, of which each step uses one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.quant.context import StepContext
from dmq_cli.quant.grids import Grid, Log2, Uniform
from dmq_cli.quant.scales import check_batch
from dmq_cli.quant.site_quantizer import SiteQuantizer, site_quantizer


class ChoiceKind(Protocol):
    """What there is to choose from, and (by its type) how calibration chooses."""

    def grids(self, grid: Grid) -> list[Grid]:
        """The grids, the default first. grid: what the site would have without a choice."""
        ...


@dataclass(frozen=True)
class ByLikelihood:
    """Uniform or log2, by the law that the values follow at each step (TCAQ-DM's DAQ; see calib/daq.py)."""

    def grids(self, grid: Grid) -> list[Grid]:
        """A grid from zero and powers of two, with as many bits."""
        return [Uniform(grid.bits, from_zero=True), Log2(grid.bits)]


@dataclass(frozen=True)
class BySnr:
    """The fewest bits whose noise stays below that of the diffusion process (PTQD; see calib/snr.py).

    bits: widths to choose from, from few to many. ConfigError if there are fewer than two or they do not increase.
    """

    bits: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.bits) < 2 or list(self.bits) != sorted(set(self.bits)):
            raise ConfigError(f"BySnr was asked for bits={list(self.bits)}; give at least two widths, fewest first.")

    def grids(self, grid: Grid) -> list[Grid]:
        """The site's grid at every width, the widest first."""
        return [replace(grid, bits=bits) for bits in reversed(self.bits)]  # type: ignore[type-var]


class Choice(SiteQuantizer):
    """At step k the tensor goes through parts[choice[k]]. Starts with the first part everywhere."""

    choice: Tensor
    parts: nn.ModuleList

    def __init__(self, context: StepContext, kind: ChoiceKind, parts: Sequence[nn.Module], steps: int) -> None:
        """parts: quantizers, in the order of kind.grids; steps: of the sampler."""
        super().__init__()
        self.context, self.kind = context, kind
        self.parts = nn.ModuleList(parts)
        self.register_buffer("choice", torch.zeros(steps, dtype=torch.int64))

    def interval(self, x: Tensor) -> Tensor:
        """That of the part which the current step (of the first sample) takes; see SiteQuantizer."""
        return site_quantizer(self.parts[int(self.choice[self.context.step[0]])]).interval(x)

    def forward(self, x: Tensor) -> Tensor:
        """x: (B, ...), quantized as its step says. Every part is computed: the graph does not depend on the step.

        With all parts off the step is not read. ValueError for another number of steps than samples.
        """
        results = [part(x) for part in self.parts]
        if not self.enabled:
            return x
        check_batch(self, self.context.step, x)
        chosen = self.choice.index_select(0, self.context.step).view(-1, *(1,) * (x.ndim - 1))
        result: Tensor = results[0]
        for number, other in enumerate(results[1:], 1):
            result = torch.where(chosen == number, other, result)
        return result
