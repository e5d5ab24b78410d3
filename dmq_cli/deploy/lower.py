"""Rewrite a quantized network so that runtimes find its integer arithmetic: every quantized layer in one of two forms.

A layer with codes q = clamp(round(x / s) + z) for its input, and integers w for its weight with scale v:

* static: fake_quantize(x) with constant ends goes into the convolution of w v, as runtimes expect it;
* table, for scales that change with the step: x is divided by the step's scale and moved by its zero point, quantized with unit scale,
  and what the zero point adds is taken off after the convolution:
      y = (conv(q, w v) - z sum(w v)) s + b,   q = fake_quantize(x / s + z), ends 0 and 2^bits - 1.
  Padding is done before, so that zeros become z like all others. One graph serves all steps; the row is looked up by the timestep.

Integers that do not fit the runtime's multiplier are cut into two, w = 2^n a + c, and both are convolved (`limit`). Split inputs are as
many convolutions. What has neither form is computed in floating point with its quantizers written out, and `Lowered.floating` says why.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from dmq_cli.diagnose import product_macs
from dmq_cli.quant import (
    Choice,
    Dynamic,
    FullPrecision,
    Log2,
    PerStep,
    Split,
    Static,
    TensorQuantizer,
    Uniform,
)
from dmq_cli.wrap import Attached, QuantMixin, bake, freeze


@torch.library.custom_op("dmq::fake_quantize", mutates_args=())
def fake_quantize(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """x on `levels` equally spaced values from low to high, which broadcast to x: the operator that exporters translate."""
    scale = (high - low) / (levels - 1)
    return torch.round((torch.minimum(torch.maximum(x, low), high) - low) / scale) * scale + low


@fake_quantize.register_fake
def _(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    return torch.empty_like(x)


@dataclass
class Lowered:
    """attached: the rewritten network. integer, floating: names of layers, the latter with the reason."""

    attached: Attached
    integer: list[str] = field(default_factory=list)
    floating: dict[str, str] = field(default_factory=dict)


def lower(attached: Attached, limit: int = 127, piece: type[Piece] | None = None) -> Lowered:
    """Rewrite a copy of a fitted network.

    limit: the greatest integer of a weight that the runtime multiplies exactly; piece: the form of integer layers, None: the one above.
    """
    network = copy.deepcopy(attached)
    freeze(network)
    bake(network)
    lowered = Lowered(network)
    for name, layer in network.layers().items():
        if reason := why_floating(layer):
            lowered.floating[name] = reason
            continue
        parent, _, child = name.rpartition(".")
        setattr(network.model.get_submodule(parent), child, IntegerLayer(layer, limit, piece or Piece))
        lowered.integer.append(name)
    for attention in network.adapter.attentions():
        module = network.model.get_submodule(attention.name)
        for slot in ("q", "k", "v", "prob"):
            quantizer = getattr(module, f"{slot}_quantizer")
            if _is_static(quantizer):
                setattr(module, f"{slot}_quantizer", StaticQuantizer(quantizer))
    return lowered


def integer_share(attached: Attached, lowered: Lowered) -> float:
    """The part, in 0..1, of all multiply-accumulates of a network call that lowered layers do in integers.

    attached: the network that was lowered. Attention's products count among all, and not as integers.
    """
    macs = product_macs(attached)
    integers = set(lowered.integer)
    return sum(count for (site, _), count in macs.items() if site.module in integers) / sum(macs.values())


def product_count(lowered: Lowered) -> int:
    """How many integer convolutions and matrix products with weights the lowered network makes in one call."""
    layers = (module for module in lowered.attached.model.modules() if isinstance(module, IntegerLayer))
    return sum(layer.products for layer in layers)


def why_floating(layer: QuantMixin) -> str:
    """Why a layer is computed in floating point; "" where it is not."""
    inputs, weights = _parts(layer.input_quantizer), _parts(layer.weight_quantizer)
    if any(isinstance(part, FullPrecision) for part in (*inputs, *weights)):
        return "its input or weight is in full precision"
    if any(_by_channel(part) for part in inputs):
        return "its input has a range for each channel"
    if len(inputs) != len(weights):
        return "its input is split otherwise than its weight"
    for part in (*inputs, *weights):
        if reason := _why_not(part):
            return reason
    return "" if isinstance(layer, nn.Conv2d | nn.Linear) else "runtimes have no integer form of it"


def _by_channel(part: nn.Module) -> bool:
    """Whether an input's quantizer has several scales at once, which no factor behind the layer can stand for."""
    scale = getattr(getattr(part, "scale", None), "scale", None)
    if not isinstance(scale, Tensor):
        return False
    row = scale[0] if isinstance(cast(Any, part).scale, PerStep) else scale
    return row.numel() > 1


def _why_not(part: nn.Module) -> str:
    if isinstance(part, Choice):
        return "its grid changes from step to step"
    if not isinstance(part, TensorQuantizer) or isinstance(part.grid, Log2):
        return "its grid is not uniform"
    if isinstance(part.scale, Dynamic):
        return "its range depends on the input"
    if part.bits > 8:
        return f"{part.bits} bits are more than runtimes multiply"
    return ""


def _parts(quantizer: nn.Module) -> Sequence[nn.Module]:
    return list(quantizer.parts) if isinstance(quantizer, Split) else [quantizer]


def _is_static(quantizer: nn.Module) -> bool:
    return (
        isinstance(quantizer, TensorQuantizer)
        and isinstance(quantizer.grid, Uniform)
        and type(quantizer.scale) is Static
        and quantizer.scale.scale.numel() == 1
    )


class StaticQuantizer(nn.Module):
    """A quantizer with constant ends, as the one operator that runtimes know. It counts as enabled."""

    low: Tensor
    high: Tensor
    enabled = True
    parts: tuple[nn.Module, ...] = ()

    def __init__(self, quantizer: TensorQuantizer) -> None:
        super().__init__()
        scale, zero_point = quantizer.scale(torch.zeros(()))
        grid = quantizer.grid
        self.register_buffer("low", ((grid.lo - zero_point) * scale).reshape(()))
        self.register_buffer("high", ((grid.hi - zero_point) * scale).reshape(()))
        self.levels = grid.hi - grid.lo + 1

    def forward(self, x: Tensor) -> Tensor:
        """x, quantized and back."""
        quantized: Tensor = fake_quantize(x, self.low, self.high, self.levels)
        return quantized


class IntegerLayer(nn.Module):
    """A convolution or linear layer in integer form, around one part or several; see the top of the file."""

    bias: Tensor | None
    channel_scale: Tensor | None
    branch_down: Tensor | None
    branch_up: Tensor | None

    def __init__(self, layer: QuantMixin, limit: int, piece: type[Piece]) -> None:
        """limit: the greatest integer of a weight that the runtime multiplies exactly; piece: the form of its parts."""
        super().__init__()
        weights = layer.weight_quantizer
        self.convolves = isinstance(layer, nn.Conv2d)
        self.sizes = list(weights.sizes) if isinstance(weights, Split) else [layer.weight.shape[1]]
        latent = torch.split(layer.latent_weight().detach(), self.sizes, 1)
        pairs = zip(_parts(layer.input_quantizer), _parts(weights), latent, strict=True)
        self.pieces = nn.ModuleList(
            piece(layer, source, quantizer, weight, limit) for source, quantizer, weight in pairs
        )
        bias: Tensor | None = layer.get_parameter("bias") if cast(Any, layer).bias is not None else None  # type: ignore[attr-defined]
        self.register_buffer("bias", bias if bias is None else self._by_channel(bias.detach()))
        for name in ("channel_scale", "branch_down", "branch_up"):
            self.register_buffer(name, getattr(layer, name))
        self.original = (layer,)  # no submodule: its weight is not needed

    def code_differences(self, x: Tensor) -> list[Tensor]:
        """How far the codes of this form are from those of its quantizers, for each part of an input x of the layer."""
        if self.channel_scale is not None:
            x = x / self._by_channel(self.channel_scale)
        parts = torch.split(x, self.sizes, 1 if self.convolves else -1)
        return [cast(Piece, piece).code_differences(part) for piece, part in zip(self.pieces, parts, strict=True)]

    @property
    def products(self) -> int:
        """Integer products of one call."""
        return sum(cast(Piece, piece).count for piece in self.pieces)

    def _by_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1) if self.convolves else values

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        if self.channel_scale is not None:
            x = x / self._by_channel(self.channel_scale)
        parts = torch.split(x, self.sizes, 1 if self.convolves else -1)
        outputs: list[Tensor] = [piece(part) for piece, part in zip(self.pieces, parts, strict=True)]
        total = functools.reduce(torch.add, outputs)
        if self.bias is not None:
            total = total + self.bias
        if self.branch_down is not None and self.branch_up is not None:
            total = total + self.original[0].branch(x, self.branch_down, self.branch_up)
        return total


class Piece(nn.Module):
    """One input with one weight."""

    total: Tensor

    def __init__(self, layer: QuantMixin, source: nn.Module, weights: nn.Module, weight: Tensor, limit: int) -> None:
        super().__init__()
        self.layer = (layer if isinstance(layer, nn.Conv2d) else None,)  # no submodule
        self._take(layer, source, weights, weight, limit)

    def _take(self, layer: QuantMixin, source: nn.Module, weights: nn.Module, weight: Tensor, limit: int) -> None:
        quantizer, weight_quantizer = _quantizer(source), _quantizer(weights)
        scale, zero_point = weight_quantizer.scale(weight)
        integers = weight_quantizer.codes(weight) - zero_point
        self.weights = nn.ModuleList(_Weight(part, scale * 2**shift) for shift, part in cut(integers, limit))
        total: Tensor = (integers * scale).flatten(1).sum(1)
        self.register_buffer("total", total.view(-1, 1, 1) if isinstance(layer, nn.Conv2d) else total)
        self.static = StaticQuantizer(quantizer) if _is_static(quantizer) else None
        self.source, self.simulated = quantizer.scale, (quantizer,)
        self.lo, self.levels = quantizer.grid.lo, quantizer.grid.hi - quantizer.grid.lo + 1

    def forward(self, x: Tensor) -> Tensor:
        """The part of the layer's output, without the bias."""
        if self.static is not None:
            return self._map(self.static(x), padded=False)
        scale, zero_point = self.source(x)
        moved = zero_point - self.lo
        moved_back: Tensor = (self._map(self._codes(self._pad(x)), padded=True) - moved * self.total) * scale
        return moved_back

    @property
    def count(self) -> int:
        """Integer products of one call."""
        return len(self.weights)

    def _codes(self, x: Tensor) -> Tensor:
        """Codes from 0 on, in the table form."""
        scale, zero_point = self.source(x)
        codes: Tensor = fake_quantize(x / scale + zero_point - self.lo, *_ends(0, self.levels - 1, x), self.levels)
        return codes

    def code_differences(self, x: Tensor) -> Tensor:
        """See IntegerLayer."""
        (quantizer,) = self.simulated
        codes = self._codes(x)
        if self.static is not None:
            scale = (self.static.high - self.static.low) / (self.levels - 1)
            codes = torch.round((self.static(x) - self.static.low) / scale)
        return (codes - (quantizer.codes(x) - self.lo)).abs()

    def _pad(self, x: Tensor) -> Tensor:
        (layer,) = self.layer
        if layer is None or layer.padding in ((0, 0), "valid"):
            return x
        height, width = (int(size) for size in layer.padding)
        return nn.functional.pad(x, (width, width, height, height))

    def _map(self, x: Tensor, padded: bool) -> Tensor:
        (layer,) = self.layer
        outputs: list[Tensor] = []
        for weight in self.weights:
            if layer is None:
                outputs.append(nn.functional.linear(x, weight()))
            else:
                padding = 0 if padded else layer.padding
                outputs.append(
                    nn.functional.conv2d(x, weight(), None, layer.stride, padding, layer.dilation, layer.groups)
                )
        return functools.reduce(torch.add, outputs)


class _Weight(nn.Module):
    """Integers within -128..127 times a scale for each output channel, or for all, as the operator that runtimes know."""

    numbers: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        super().__init__()
        by_channel = scale.expand(len(integers), *(1,) * (integers.ndim - 1))
        self.register_buffer("numbers", integers * scale)
        self.register_buffer("low", -128 * by_channel)
        self.register_buffer("high", 127 * by_channel)

    def forward(self) -> Tensor:
        """The weight."""
        weight: Tensor = fake_quantize(self.numbers, self.low, self.high, 256)
        return weight


def _ends(low: float, high: float, like: Tensor) -> tuple[Tensor, Tensor]:
    return torch.full((), low, dtype=like.dtype), torch.full((), high, dtype=like.dtype)


def _quantizer(module: nn.Module) -> TensorQuantizer:
    if not isinstance(module, TensorQuantizer):
        raise TypeError(f"{type(module).__name__} is no single quantizer")
    return module


def cut(integers: Tensor, limit: int) -> Iterator[tuple[int, Tensor]]:
    """Write integers as 2^shift a + c with |a|, |c| <= limit: (shift, a) and, where there is a rest, (0, c)."""
    shift = 0
    while int(torch.floor(integers / 2**shift).abs().max()) > limit:
        shift += 1
    high = torch.floor(integers / 2**shift)
    yield shift, high
    if shift:
        yield 0, integers - high * 2**shift
