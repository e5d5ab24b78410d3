"""Name runs by the values that have an effect, whatever labels the configuration has. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LABELS = {"name", "cite", "path", "about", "sampling", "extractor_path", "reference_path"}
LABELS |= {"dinov2_path", "clip_path", "lpips_path"}
"""Names, paths and defaults that other sections have taken over: they are not part of an identity."""

_FULL, _EDGE = 32, 8  # bits of full precision, and of both ends of the network where it is quantized
_MOST = 2  # overrides in a name
_NAMED = ("weight", "act", "prob", "edge_weight", "edge_act")


def bits_name(bits: Mapping[str, Any]) -> str:
    """Name a section `bits` by its widths, w4a8 or fp; by its label where it has no widths."""
    if "weight" not in bits or "act" not in bits:
        return str(bits["name"])
    weight, act = bits["weight"], bits["act"]
    return "fp" if weight == act == _FULL else f"w{weight}a{act}"


def bits_overrides(bits: Mapping[str, Any]) -> list[str]:
    """List the widths that bits_name leaves out and that are not those of every setting in conf/bits, as bits.prob=32."""
    act, weight = bits.get("act"), bits.get("weight")
    usual = {"prob": act, "edge_weight": edge_bits(weight), "edge_act": edge_bits(act)}
    extra = {key: bits[key] for key in bits if key not in (*_NAMED, "name")}
    unusual = {key: bits[key] for key in usual if key in bits and bits[key] != usual[key]}
    return [f"bits.{key}={value}" for key, value in {**unusual, **extra}.items()]


def edge_bits(width: Any) -> int:
    """Bits of the first and last layer at a width of the others, where none is given."""
    return _FULL if width == _FULL else _EDGE


def bits_of(metrics: Mapping[str, Any]) -> str:
    """bits_name of a run's metrics.json; older ones have a label."""
    bits = metrics.get("config", {}).get("bits", {})
    return bits_name(bits) if "weight" in bits and "act" in bits else str(metrics["bits"])


def stage_of(name: str) -> str:
    """The stage in the name of a run's artifact: sample for sample-0-1999."""
    return re.sub(r"-\d.*", "", name)


def few(overrides: Sequence[str]) -> list[str]:
    """Shorten overrides for a name: themselves, or their number where they are many."""
    return list(overrides) if len(overrides) <= _MOST else [f"{len(overrides)} overrides"]


def with_overrides(name: str, overrides: Sequence[str]) -> str:
    """Append overrides in parentheses to a name."""
    return f"{name} ({', '.join(overrides)})" if overrides else name
