"""Find the bits of each layer's input: the policy has roles, a trace has layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dmq_cli.models.role_patterns import DIT, PARTS, REGISTERED, UNET, part_of, role_of


def input_bits(policy: Mapping[str, int], layers: Sequence[str]) -> dict[str, int]:
    """Find the bits of the layers' inputs, for layers whose width follows from the policy."""
    widths = {layer: _width(policy, layer) for layer in layers}
    return {layer: bits for layer, bits in widths.items() if bits is not None}


def _width(policy: Mapping[str, int], layer: str) -> int | None:
    """The bits of a layer's input; None where the labels that may be this layer's have different bits, or there are none.

    The policy has a layer under its own name where layers of one role and part differ.
    """
    if (own := policy.get(f"{layer}.input")) is not None:
        return own
    role = role_of(layer, [*UNET, *DIT, *(pattern for patterns, _ in REGISTERED.values() for pattern in patterns)])
    part = part_of(layer, {**PARTS, **{name: part for _, parts in REGISTERED.values() for name, part in parts.items()}})
    if role is None:
        return None
    cross = role.replace("attn.", "attn.cross.", 1)  # a name does not tell what an attention reads
    labels = [f"{role_name}.input" for role_name in dict.fromkeys((role, cross))]
    widths = {policy.get(f"{part}:{label}", policy.get(label)) for label in labels} - {None}
    return widths.pop() if len(widths) == 1 else None
