"""Errors of the layers inside a unit, and inputs mixed from two networks.

Liu et al.: Enhanced Distribution Alignment for Post-Training Quantization of Diffusion Models (EDA-DM), arXiv:2401.04585,
fine-grained block reconstruction: the block's error plus gamma times that of every layer in it but the last, each a sum over channels
and a mean over samples and places.
Deliberate deviations from the released code (BienLuky/EDA-DM @ 87302c0): layer and block errors come from the same quantized
forward pass, and so from the same dropped activations; where outputs are (B, places, C) it sums over places and takes the mean over
channels, which says something else than in its convolutions (diffusers' query, key and value projections are such layers).
Wei et al.: QDrop, ICLR 2022 (arXiv:2203.05740): elementwise mixing of quantized and full-precision inputs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dmq_cli.recon.losses import channel_loss
from dmq_cli.recon.units import Unit, layers_of
from dmq_cli.wrap import Attached, QuantMixin

_MAIN = ("0", "hidden_states", "input")


def mixed(
    quantized: dict[str, Tensor], full: Mapping[str, Tensor], part: float, which: Literal["main", "all"] = "main"
) -> dict[str, Tensor]:
    """Replace the fraction `part` of the unit's inputs by `full`, elementwise at random.

    which: the main one, so that others (the time embedding) stay, or all that are tensors.
    """
    names = [name for name, value in quantized.items() if isinstance(value, Tensor) and name in full]
    chosen = [name for name in _MAIN if name in names][:1] if which == "main" else names
    if not part or not chosen:
        return quantized
    return {**quantized, **{name: _mix(quantized[name], full[name], part) for name in chosen}}


def _mix(quantized: Tensor, full: Tensor, part: float) -> Tensor:
    if not quantized.is_floating_point():  # the same in both networks
        return full
    return torch.where(torch.rand_like(quantized) < part, full, quantized)


class LayerErrors:
    """Compares the output of every layer in the quantized and in the full-precision unit. A context manager."""

    def __init__(self, attached: Attached, unit: Unit) -> None:
        self.attached, self.unit = attached, unit
        self.quantizers = list(attached.quantizers().values())  # all: a layer inside may belong to another unit
        self.full: dict[str, Tensor] = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self) -> LayerErrors:
        self.outputs = self.stack.enter_context(outputs_of(layers_of(self.attached, self.unit)))
        return self

    def __exit__(self, *error: object) -> None:
        self.stack.close()

    @torch.no_grad()
    def see_full(self, inputs: Mapping[str, Tensor]) -> None:
        """Run the unit in full precision on full-precision inputs, and keep its layers' outputs as their targets."""
        states = [quantizer.enabled for quantizer in self.quantizers]
        for quantizer in self.quantizers:
            quantizer.enabled = False
        self.outputs.clear()
        try:
            self.unit.run(self.attached, inputs)
        finally:
            for quantizer, state in zip(self.quantizers, states, strict=True):
                quantizer.enabled = state
        self.full = dict(self.outputs)

    def total(self, p: float) -> Tensor:
        """Sum the errors of all layers but the unit's last, whose error is the unit's own. A scalar."""
        errors = [channel_loss(self.outputs[name], full, p) for name, full in list(self.full.items())[:-1]]
        return torch.stack(errors).sum() if errors else torch.zeros(())


@contextlib.contextmanager
def outputs_of(layers: Mapping[str, QuantMixin]) -> Iterator[dict[str, Tensor]]:
    """Yield the outputs of these layers at their last call, by name, in the order of the calls."""
    outputs: dict[str, Tensor] = {}
    modules = {name: cast(nn.Module, layer) for name, layer in layers.items()}
    handles = [m.register_forward_hook(lambda _m, _x, y, n=n: outputs.update({n: y})) for n, m in modules.items()]
    try:
        yield outputs
    finally:
        for handle in handles:
            handle.remove()
