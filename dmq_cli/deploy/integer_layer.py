"""Convolutions and linear layers in integer form; lower.py says which."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from dmq_cli.deploy.integer_quantizers import StaticQuantizer, TableQuantizer, fake_quantize, is_static
from dmq_cli.quant import Split, TensorQuantizer
from dmq_cli.wrap import QuantMixin

_EXACT = 127


def parts_of(quantizer: nn.Module) -> Sequence[nn.Module]:
    """The quantizers of a split one, or itself."""
    return list(quantizer.parts) if isinstance(quantizer, Split) else [quantizer]


class IntegerLayer(nn.Module):
    """A convolution or linear layer in integer form, around one part or several."""

    bias: Tensor | None
    channel_scale: Tensor | None
    branch_down: Tensor | None
    branch_up: Tensor | None

    def __init__(self, layer: QuantMixin, limit: int, form: type[Piece]) -> None:
        """limit: the greatest integer of a weight that the runtime multiplies exactly; form: of its parts."""
        super().__init__()
        weights = layer.weight_quantizer
        self.convolves = isinstance(layer, nn.Conv2d)
        self.sizes = list(weights.sizes) if isinstance(weights, Split) else [layer.weight.shape[1]]
        latent = torch.split(layer.latent_weight().detach(), self.sizes, 1)
        pairs = zip(parts_of(layer.input_quantizer), parts_of(weights), latent, strict=True)
        self.pieces = nn.ModuleList(
            form(layer, source, quantizer, weight, limit) for source, quantizer, weight in pairs
        )
        bias: Tensor | None = layer.get_parameter("bias") if cast(Any, layer).bias is not None else None  # type: ignore[attr-defined]
        self.register_buffer("bias", bias if bias is None else self._by_channel(bias.detach()))
        for name in ("channel_scale", "branch_down", "branch_up"):
            self.register_buffer(name, getattr(layer, name))
        self.original = (layer,)  # no submodule: its weight is not needed

    def quantizers(self) -> list[nn.Module]:
        """The quantizer of each part of the input."""
        return [cast(Piece, piece).quantizer for piece in self.pieces]

    def quantized(self, x: Tensor) -> list[Tensor]:
        """Each part of an input x of the layer behind its quantizer, as the layer multiplies it."""
        return [piece.quantized(part) for piece, part in self._parts(x)]

    def code_differences(self, x: Tensor, quantized: Sequence[Tensor]) -> list[Tensor]:
        """How far codes are from those of the simulated quantizers, for each part of an input x. quantized: see there."""
        pairs = zip(self._parts(x), quantized, strict=True)
        return [piece.code_differences(part, behind) for (piece, part), behind in pairs]

    def _parts(self, x: Tensor) -> list[tuple[Piece, Tensor]]:
        """Each piece with its part of the input.

        What is before a convolution may be joined with its quantizer, so nothing stands between them. Before a linear layer even a whole
        input is split: OpenVINO would move the attention's transpositions behind the quantizer, and the layer's input were in no graph.
        """
        scaled = self._scaled(x)
        if self.convolves and len(self.sizes) == 1:
            return [(cast(Piece, self.pieces[0]), scaled)]
        parts = torch.split(scaled, self.sizes, 1 if self.convolves else -1)
        return [(cast(Piece, piece), part) for piece, part in zip(self.pieces, parts, strict=True)]

    @property
    def products(self) -> int:
        """Integer products of one call."""
        return sum(cast(Piece, piece).products for piece in self.pieces)

    def _scaled(self, x: Tensor) -> Tensor:
        return x if self.channel_scale is None else x / self._by_channel(self.channel_scale)

    def _by_channel(self, values: Tensor) -> Tensor:
        return values.view(-1, 1, 1) if self.convolves else values

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output."""
        parts = self._parts(x)
        outputs: list[Tensor] = [piece(part) for piece, part in parts]
        total = functools.reduce(torch.add, outputs)
        if (constant := self._constant(parts)) is not None:
            total = total + constant
        if self.branch_down is not None and self.branch_up is not None:
            total = total + self.original[0].branch(self._scaled(x), self.branch_down, self.branch_up)
        return total

    def _constant(self, parts: Sequence[tuple[Piece, Tensor]]) -> Tensor | None:
        """What is added to every sample: the bias, less what codes of zero add to the products."""
        of_zeros = [piece.of_zero(part) for piece, part in parts]
        terms = [
            term
            for term in (self.bias, *(None if of_zero is None else -of_zero for of_zero in of_zeros))
            if term is not None
        ]
        return functools.reduce(torch.add, terms) if terms else None


class Piece(nn.Module):
    """One input with one weight. moved_by: what its integers were moved by, as a factor of a weight of ones; None: nothing.

    attention, sums: whether beside layers of this form attention's products are in integers, and group normalisation in sums.
    """

    total: Tensor
    moved_by: Tensor | None
    attention = True
    sums = True

    def __init__(self, layer: QuantMixin, source: nn.Module, weights: nn.Module, weight: Tensor, limit: int) -> None:
        super().__init__()
        self.layer = (layer if isinstance(layer, nn.Conv2d) else None,)  # no submodule
        quantizer, weight_quantizer = _quantizer(source), _quantizer(weights)
        scale, zero_point = weight_quantizer.scale(weight)
        integers = weight_quantizer.codes(weight) - zero_point
        self.simulated = (quantizer,)
        self._take(layer, integers, scale, limit)

    def _take(self, layer: QuantMixin, integers: Tensor, scale: Tensor, limit: int) -> None:
        """Take the integers of the weight and their scale in this form."""
        (quantizer,) = self.simulated
        by_output = (-1, 1, 1) if isinstance(layer, nn.Conv2d) else (-1,)
        offset = offsets(integers, limit) if getattr(layer, "groups", 1) == 1 else torch.zeros(())
        self.weights = nn.ModuleList(_Weight(part, scale * 2**shift) for shift, part in cut(integers - offset, limit))
        self.register_buffer("moved_by", (offset * scale).view(by_output) if offset.any() else None)
        total: Tensor = (integers * scale).sum(1, keepdim=True)
        self.register_buffer("total", total if isinstance(layer, nn.Conv2d) else total.flatten())
        self.quantizer = StaticQuantizer(quantizer) if is_static(quantizer) else TableQuantizer(quantizer)

    def forward(self, x: Tensor) -> Tensor:
        """The part of the layer's output, without the bias and without taking off what the code of zero adds."""
        product = self._map(self.quantized(x))
        return product if isinstance(self.quantizer, StaticQuantizer) else product * self.quantizer.ends(x)[0]

    def of_zero(self, x: Tensor) -> Tensor | None:
        """What the code of zero adds to the output, for every sample alike; None where that is nothing. x: for its height and width.

        At the borders it adds less, as what is padded adds nothing.
        """
        if isinstance(self.quantizer, StaticQuantizer) or self.quantizer.zero_is_zero:
            return None
        scale, zero = self.quantizer.ends(x)
        if self.layer[0] is None:
            return zero * self.total * scale
        return self._product(zero.reshape(-1, 1, 1, 1).expand(-1, -1, *x.shape[-2:]), self.total, groups=1) * scale

    def quantized(self, x: Tensor) -> Tensor:
        """See IntegerLayer."""
        quantized: Tensor = self.quantizer(x)
        return quantized

    def code_differences(self, x: Tensor, quantized: Tensor) -> Tensor:
        """See IntegerLayer."""
        (quantizer,) = self.simulated
        expected: Tensor = quantizer.codes(x) - quantizer.grid.lo
        return (self.quantizer.codes(quantized) - expected).abs()

    @property
    def products(self) -> int:
        """Integer products of one call."""
        return len(self.weights)

    def _map(self, x: Tensor) -> Tensor:
        outputs = [self._product(x, weight()) for weight in self.weights]
        if self.moved_by is not None:
            outputs.append(self._of_ones(x) * self.moved_by)
        return functools.reduce(torch.add, outputs)

    def _of_ones(self, x: Tensor) -> Tensor:
        """The product with a weight of ones, as sums."""
        (layer,) = self.layer
        if layer is None:
            return x.sum(-1, keepdim=True)
        return self._product(x.sum(1, keepdim=True), x.new_ones(1, 1, *layer.kernel_size), groups=1)

    def _product(self, x: Tensor, weight: Tensor, groups: int | None = None) -> Tensor:
        (layer,) = self.layer
        if layer is None:
            return nn.functional.linear(x, weight)
        groups = layer.groups if groups is None else groups
        return nn.functional.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation, groups)


class _Weight(nn.Module):
    """Integers within -128..127 times a scale for each output channel, or for all, as the operator that runtimes know."""

    numbers: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, integers: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.integers = integers.to(torch.int8)
        by_channel = scale.expand(len(integers), *(1,) * (integers.ndim - 1))
        self.register_buffer("numbers", integers * scale)
        self.register_buffer("low", -128 * by_channel)
        self.register_buffer("high", 127 * by_channel)

    def forward(self) -> Tensor:
        """The weight."""
        weight: Tensor = fake_quantize(self.numbers, self.low, self.high, 256)
        return weight


def _quantizer(module: nn.Module) -> TensorQuantizer:
    if not isinstance(module, TensorQuantizer):
        raise TypeError(f"{type(module).__name__} is no single quantizer")
    return module


def cut(integers: Tensor, limit: int) -> Iterator[tuple[int, Tensor]]:
    """Write integers as 2^shift a + c with |a|, |c| <= limit, or -128: (shift, a) and, where there is a rest, (0, c)."""
    shift = 0
    while not _fits(torch.floor(integers / 2**shift), limit):
        shift += 1
    high = torch.floor(integers / 2**shift)
    yield shift, high
    if shift:
        yield 0, integers - high * 2**shift


def _fits(integers: Tensor, limit: int) -> bool:
    return _least(limit) <= int(integers.min()) and int(integers.max()) <= limit


def _least(limit: int) -> int:
    return -limit - 1 if limit == _EXACT else -limit


def offsets(integers: Tensor, limit: int) -> Tensor:
    """The least that the integers of each output channel have to be moved by to fit; 0 for all where those of one span too much."""
    least = _least(limit)
    low, high = torch.aminmax(integers.flatten(1), dim=1)
    moved = torch.zeros_like(low).clamp(high - limit, low - least)
    fits = bool((high - low <= limit - least).all())
    return (moved if fits else torch.zeros_like(low)).view(-1, *(1,) * (integers.ndim - 1))
