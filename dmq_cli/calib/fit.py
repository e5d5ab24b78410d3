"""Fits the ranges of all quantizers: weights from themselves, activations from a calibration set."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch

from dmq_cli.calib.observer import Observer
from dmq_cli.calib.values import Draws
from dmq_cli.models import Call
from dmq_cli.ops import WITHOUT_FLOAT64
from dmq_cli.quant import source_of
from dmq_cli.wrap import Attached, QuantDenoiser, observing

FitReport = Callable[[int], None]
Data = Iterable[Call]


def fit_weights(attached: Attached) -> None:
    """Fit scale and zero point of every weight quantizer to the weight itself. Baked weights are dropped."""
    for _, quantizer, weight, spec in attached.weight_pieces():
        weight = weight.cpu() if weight.device.type in WITHOUT_FLOAT64 else weight
        minimum, maximum = spec.ranges.fit(spec.granularity.grouped(weight), quantizer.grid)  # type: ignore[union-attr]
        source_of(quantizer).fill(*quantizer.grid.parameters(minimum, maximum), minimum)
    for layer in attached.layers().values():
        layer.baked = None


@torch.no_grad()
def fit_activations(
    attached: Attached, calibration: Data, report: FitReport = lambda done: None, *, quantized: bool = False
) -> None:
    """Fit scale and zero point of every activation quantizer to its inputs in the full-precision network.

    quantized: to its inputs in the network with quantized weights.
    calibration: batches of (sample (B, C, H, W), timestep (B,)), and condition where there is one. Raises NumericsError for NaN
    or infinity.
    """
    quantizers, draws = attached.quantizers("input", "q", "k", "v", "prob"), Draws()
    observers = [
        Observer(name, quantizer, attached.spec(name), draws)
        for name, quantizer in quantizers.items()
        if source_of(quantizer).groups
    ]
    hooks = [observer.quantizer.register_forward_pre_hook(observer.hook) for observer in observers]
    try:
        with observing(attached, weights=quantized):
            watch(attached, calibration if hooks else (), report, draws.start)
    finally:
        for hook in hooks:
            hook.remove()
    for observer in observers:
        observer.finish()


@torch.no_grad()
def watch(
    attached: Attached,
    calibration: Data,
    report: FitReport = lambda num_done: None,
    start: Callable[[int, int], None] = lambda first, num: None,
) -> None:
    """Run the network, as it is, over the calibration set. start(first, num) is called before the batch of these samples."""
    denoiser, num_done = QuantDenoiser(attached), 0
    for batch in calibration:
        start(num_done, len(batch[0]))
        denoiser(*batch)
        num_done += len(batch[0])
        report(num_done)
