"""Rewrite a quantized network so that runtimes find its integer arithmetic: every quantized layer in one of two forms.

A layer with codes q = clamp(round(x / s) + z) for its input, and integers w for its weight with scale v:

* static: fake_quantize(x) with constant ends goes into the convolution of w v, as runtimes expect it;
* table, for scales that change with the step: x is divided by the step's scale and moved by its zero point, quantized with unit scale,
  and what the zero point adds is taken off after the convolution:
      y = conv(q, w v) s + (b - conv(z 1, w v) s),   q = fake_quantize(x / s + z), ends 0 and 2^bits - 1.
  Both convolutions pad by zeros; the second is of one sample and one channel, the sums of w over inputs. One graph serves all steps; the row
  is looked up by the timestep.

Integers of a channel that do not fit the runtime's multiplier (`limit`) are moved by d, so that they do where they span no more:
conv(q, w) = conv(q, w - d) + d conv(q, 1), whose second part is the same for all channels: the sum of q over inputs, then over the filter.
Others are cut into two, w = 2^n a + c, and both are convolved. Split inputs are as many convolutions. Attention's products are in
integer_attention.py, what is written otherwise around the integers in group_norm.py. What has no such form is computed in floating point
with its quantizers written out, and `Lowered.floating` says why.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor, nn

from dmq_cli.deploy.group_norm import in_sums
from dmq_cli.deploy.integer_attention import PAIRS, IntegerAttention, product_name
from dmq_cli.deploy.integer_layer import IntegerLayer, Piece, parts_of
from dmq_cli.deploy.integer_quantizers import StaticQuantizer, is_static
from dmq_cli.diagnose import product_macs
from dmq_cli.models import Site
from dmq_cli.models.roles import ATTENTION_SLOTS
from dmq_cli.quant import Choice, Dynamic, FullPrecision, Log2, PerStep, TensorQuantizer
from dmq_cli.wrap import Attached, QuantAttention, QuantMixin, bake, freeze


@dataclass
class Lowered:
    """attached: the rewritten network. integer: names of layers; attention: of attention's products that are in integers; floating: of
    both that are not, with the reason."""

    attached: Attached
    integer: list[str] = field(default_factory=list)
    attention: list[str] = field(default_factory=list)
    floating: dict[str, str] = field(default_factory=dict)


def lower(attached: Attached, limit: int = 127, form: type[Piece] = Piece) -> Lowered:
    """Rewrite a copy of a fitted network.

    limit: the greatest integer of a weight that the runtime multiplies exactly; form: of integer layers.
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
        setattr(network.model.get_submodule(parent), child, IntegerLayer(layer, limit, form))
        lowered.integer.append(name)
    if form.sums:
        in_sums(network.model)
    for attention in network.adapter.attentions():
        _lower_attention(lowered, attention.name, limit if form.attention else None)
    return lowered


def _lower_attention(lowered: Lowered, name: str, limit: int | None) -> None:
    """limit: None for a backend that multiplies activations in floating point."""
    module: Any = lowered.attached.model.get_submodule(name)
    quantizers = {slot: getattr(module, f"{slot}_quantizer") for slot in ATTENTION_SLOTS}
    reasons = {
        product_name(name, first): _why_no_product((quantizers[first], quantizers[second]), limit)
        for first, second in PAIRS
    }
    for slot, quantizer in quantizers.items():
        if is_static(quantizer):
            setattr(module, f"{slot}_quantizer", StaticQuantizer(quantizer))
    lowered.attention += [product for product, reason in reasons.items() if not reason]
    lowered.floating |= {product: reason for product, reason in reasons.items() if reason}
    if limit is None:
        return
    module.integer_attention = IntegerAttention(list(quantizers.values()), [not reason for reason in reasons.values()])
    module.processor = QuantAttention(module.processor.original, module.integer_attention)


def _why_no_product(factors: Sequence[nn.Module], limit: int | None) -> str:
    """Why a product of two activations is computed in floating point; "" where it is not."""
    if limit is None:
        return "this backend multiplies activations with each other in floating point"
    if any(isinstance(factor, FullPrecision) for factor in factors):
        return "one of its factors is in full precision"
    if reason := next(filter(None, map(_why_not, factors)), ""):
        return reason
    bits = cast(TensorQuantizer, factors[1]).bits
    return "" if 2 ** (bits - 1) <= limit + 1 else f"products of activations of {bits} bits overflow on this processor"


def integer_share(attached: Attached, lowered: Lowered) -> float:
    """The part, in 0..1, of all multiply-accumulates of a network call that lowered layers do in integers.

    attached: the network that was lowered.
    """
    macs = product_macs(attached)
    integers = {*lowered.integer, *lowered.attention}
    return sum(count for (site, _), count in macs.items() if _name(site) in integers) / sum(macs.values())


def _name(first: Site) -> str:
    """The name of a product by the site of its first factor."""
    return first.module if first.slot == "input" else product_name(first.module, first.slot)


def integer_layer(lowered: Lowered, name: str) -> IntegerLayer:
    """The integer layer of this name."""
    return cast(IntegerLayer, lowered.attached.model.get_submodule(name))


def product_count(lowered: Lowered) -> int:
    """How many integer convolutions and matrix products with weights the lowered network makes in one call."""
    layers = (module for module in lowered.attached.model.modules() if isinstance(module, IntegerLayer))
    return sum(layer.products for layer in layers)


def why_floating(layer: QuantMixin) -> str:
    """Why a layer is computed in floating point; "" where it is not."""
    inputs, weights = parts_of(layer.input_quantizer), parts_of(layer.weight_quantizer)
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
