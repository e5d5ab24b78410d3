"""Fits the ranges of all quantizers: weights from themselves, activations from a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.errors import NumericsError
from dmq_cli.quant import PerStep, TensorQuantizer
from dmq_cli.wrap import Attached, QuantDenoiser, Spec, observing

_KEPT_VALUES = 1 << 17  # values kept for a search over ranges, for each scale


def fit_weights(attached: Attached) -> None:
    """Set scale and zero point of every weight quantizer from the weight itself. Baked weights are dropped."""
    for _, quantizer, weight, spec in attached.weight_pieces():
        _set(quantizer, *spec.ranges.fit(spec.granularity.grouped(weight), quantizer.grid))
    for layer in attached.layers().values():
        layer.baked = None


@torch.no_grad()
def fit_activations(
    attached: Attached,
    calibration: Iterable[tuple[Tensor, Tensor]],
    report: Callable[[int], None] = lambda done: None,
) -> None:
    """Set scale and zero point of every activation quantizer from what the full-precision network shows it.

    calibration: batches of (sample (B, C, H, W), timestep (B,)). Raises NumericsError for NaN or infinity.
    """
    slots = {site.name: spec for site, spec in attached.specs.items()}
    observers = [
        _Observer(name, quantizer, slots[name.split(".parts.")[0]])
        for name, quantizer in attached.quantizers("input", "q", "k", "v", "prob").items()
    ]
    if not observers:
        return
    hooks = [o.quantizer.register_forward_pre_hook(o.hook(attached)) for o in observers]
    try:
        with observing(attached):
            _watch(attached, calibration, report)
    finally:
        for hook in hooks:
            hook.remove()
    for observer in observers:
        observer.finish()


def _watch(attached: Attached, calibration: Iterable[tuple[Tensor, Tensor]], report: Callable[[int], None]) -> None:
    denoiser, done = QuantDenoiser(attached), 0
    for sample, timestep in calibration:
        denoiser(sample, timestep)
        done += len(sample)
        report(done)


class _Observer:
    """Running extremes of what one quantizer sees, for each step if its scale has steps, and some values for a search."""

    def __init__(self, name: str, quantizer: TensorQuantizer, spec: Spec) -> None:
        self.name, self.quantizer, self.spec = name, quantizer, spec
        self.per_step = isinstance(quantizer.scale, PerStep)
        self.groups = len(quantizer.scale.scale) if isinstance(quantizer.scale, PerStep) else 1
        self.minimum = torch.full((self.groups,), torch.inf)
        self.maximum = torch.full((self.groups,), -torch.inf)
        self.values: list[list[Tensor]] = [[] for _ in range(self.groups)]
        self.shares = [4096] * self.groups
        self.generator = torch.Generator().manual_seed(0)

    def hook(self, attached: Attached) -> Callable[..., None]:
        def watch(_module: nn.Module, inputs: tuple[Any, ...]) -> None:
            value: Tensor = inputs[0].detach().cpu()
            step = (
                attached.context.step.cpu().expand(len(value))
                if self.per_step
                else torch.zeros(len(value), dtype=torch.int64)
            )
            self.update(value.reshape(len(value), -1), step)

        return watch

    def update(self, rows: Tensor, step: Tensor) -> None:
        low, high = rows.aminmax(dim=1)
        if not bool((low.isfinite() & high.isfinite()).all()):
            raise NumericsError(
                f"The activations at {self.name} have values that are not finite; check the weights of the model."
            )
        for group in sorted(set(step.tolist())):
            chosen = step == group
            self.minimum[group] = torch.minimum(self.minimum[group], low[chosen].min())
            self.maximum[group] = torch.maximum(self.maximum[group], high[chosen].max())
            if self.spec.ranges.needs_values:
                self._keep(group, rows[chosen])

    def _keep(self, group: int, rows: Tensor) -> None:
        """A bounded random part of the values, an equal share from every batch: when full, all are halved."""
        flat, kept = rows.reshape(-1), self.values[group]
        share = min(len(flat), self.shares[group])
        kept.append(flat[torch.randint(len(flat), (share,), generator=self.generator)])
        if sum(map(len, kept)) > _KEPT_VALUES:
            self.values[group] = [values[::2].clone() for values in kept]
            self.shares[group] = max(1, share // 2)

    def finish(self) -> None:
        self._fill_gaps()
        if not self.spec.ranges.needs_values:
            return _set(self.quantizer, self.minimum, self.maximum)
        found = [self._search(group) for group in range(self.groups)]
        return _set(self.quantizer, torch.cat([f[0] for f in found]), torch.cat([f[1] for f in found]))

    def _search(self, group: int) -> tuple[Tensor, Tensor]:
        ends = torch.stack([self.minimum[group], self.maximum[group]])
        values = torch.cat([*self.values[group], ends])[None]
        low, high = self.spec.ranges.fit(values, self.quantizer.grid)
        return low, high

    def _fill_gaps(self) -> None:
        """A step that the calibration set skipped takes the range of the nearest step that it has."""
        seen = (self.minimum <= self.maximum).nonzero().flatten()
        if not len(seen):
            raise NumericsError(
                f"The calibration set showed nothing to the quantizer {self.name}; use a set with at least one sample."
            )
        nearest = seen[(torch.arange(self.groups)[:, None] - seen[None]).abs().argmin(1)]
        self.minimum, self.maximum = self.minimum[nearest], self.maximum[nearest]
        if any(self.values):
            self.values = [self.values[i] for i in nearest.tolist()]


@torch.no_grad()
def _set(quantizer: TensorQuantizer, minimum: Tensor, maximum: Tensor) -> None:
    scale, zero_point = quantizer.grid.parameters(minimum, maximum)
    source: Any = quantizer.scale
    source.scale.copy_(scale.view(source.scale.shape))
    source.zero_point.copy_(zero_point.view(source.zero_point.shape))
