"""Observe the inputs of one activation quantizer during calibration, in bounded memory, and fit its range."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.calib.values import Draws, Values
from dmq_cli.errors import NumericsError
from dmq_cli.ops import Ema, PerInputChannel, SearchedEma
from dmq_cli.quant import TensorQuantizer, source_of
from dmq_cli.wrap import Spec


class Observer:
    """Running minimum and maximum of each group of the scale source and each channel, and some values for a search.

    draws: chooses the values that are kept of the current batch, shared by all observers.
    """

    def __init__(self, name: str, quantizer: TensorQuantizer, spec: Spec, draws: Draws) -> None:
        self.name, self.quantizer, self.spec, self.draws = name, quantizer, spec, draws
        self.source = source_of(quantizer)
        self.minimum = torch.empty(0)
        self.maximum = torch.empty(0)
        self.each: list[tuple[Tensor, Tensor, Tensor]] = []
        self.values = Values()

    def hook(self, _module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """A forward pre-hook of the quantizer."""
        value: Tensor = inputs[0].detach()
        granularity = self.spec.granularity
        rows = (
            granularity.channels(value)
            if isinstance(granularity, PerInputChannel)
            else value.reshape(len(value), 1, -1)
        )
        self.update(rows, self.source.rows(len(value)))

    def update(self, rows: Tensor, group: Tensor) -> None:
        """rows: (B, channels, n), on any device; group: (B,) int64, on the CPU."""
        low, high = torch.stack(rows.aminmax(dim=2)).cpu()  # together: the host waits for them once
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise NumericsError(
                f"The activations at {self.name} have values that are not finite; check the weights of the model."
            )
        if isinstance(self.spec.ranges, Ema | SearchedEma):
            self.each.append((group, low, high))
        if not len(self.minimum):
            self.minimum = torch.full((self.source.groups, rows.shape[1]), torch.inf, dtype=low.dtype)
            self.maximum = torch.full_like(self.minimum, -torch.inf)
        index = group[:, None].expand_as(low)
        self.minimum.scatter_reduce_(0, index, low, "amin")
        self.maximum.scatter_reduce_(0, index, high, "amax")
        if self.spec.ranges.needs_values:
            places = self.draws.places(rows.shape[2])
            for number in sorted(set(group.tolist())):
                self.values.add(number, rows[group == number], places[group == number])

    def finish(self) -> None:
        """Set the quantizer's scales. A group without data takes the range of the nearest one with data."""
        groups_with_data = (
            (self.minimum <= self.maximum).all(1).nonzero().flatten() if len(self.minimum) else torch.empty(0)
        )
        if not len(groups_with_data):
            raise NumericsError(
                f"The quantizer {self.name} got no values from the calibration set; use a set with at least one sample."
            )
        ranges = [self._range(group) for group in groups_with_data.tolist()]
        nearest = (torch.arange(self.source.groups)[:, None] - groups_with_data[None]).abs().argmin(1)
        minimum, maximum = (torch.stack([pair[end] for pair in ranges])[nearest] for end in (0, 1))
        self.source.fill(*self.quantizer.grid.parameters(minimum, maximum), minimum)

    def _range(self, group: int) -> tuple[Tensor, Tensor]:
        """Minimum and maximum of a group, (channels,) each."""
        ranges, grid = self.spec.ranges, self.quantizer.grid
        if isinstance(ranges, Ema):
            return ranges.running(*self._each(group))
        if isinstance(ranges, SearchedEma):
            low, high = self._each(group)
            values = [self.values.by_sample(group, c) for c in range(low.shape[1])]
            return _joined(ranges.running(v, low[:, c], high[:, c], grid) for c, v in enumerate(values))
        ends = torch.stack([self.minimum[group], self.maximum[group]], 1)
        if not ranges.needs_values:
            return ranges.fit(ends, grid)
        return _joined(ranges.fit(torch.cat([self.values.of(group, c), ends[c]])[None], grid) for c in range(len(ends)))

    def _each(self, group: int) -> tuple[Tensor, Tensor]:
        """Minimum and maximum of every sample of a group, (samples, channels) each, in the order the samples came."""
        lows, highs = zip(*((low[of == group], high[of == group]) for of, low, high in self.each), strict=True)
        return torch.cat(lows), torch.cat(highs)


def _joined(pairs: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    low, high = zip(*pairs, strict=True)
    return torch.cat(low), torch.cat(high)
