"""What a run is called: by the values that act, whatever labels its configuration has. Imports no torch."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

LABELS = {"name", "cite", "path", "about", "sampling", "extractor_path", "reference_path"}
LABELS |= {"dinov2_path", "clip_path", "lpips_path"}
"""Names, places and defaults that other sections have taken up: they do not say what a thing is."""

_FULL, _EDGE = 32, 8  # bits of full precision, and of both ends of the network where it is quantized
_MOST = 2  # overrides in a name
_NAMED = ("weight", "act", "prob", "edge_weight", "edge_act")


def bits_name(bits: Mapping[str, Any]) -> str:
    """w4a8, or fp, by the widths themselves; the label where a section has none. bits: the section of that name."""
    if "weight" not in bits or "act" not in bits:
        return str(bits["name"])
    weight, act = bits["weight"], bits["act"]
    return "fp" if weight == act == _FULL else f"w{weight}a{act}"


def bits_overrides(bits: Mapping[str, Any]) -> list[str]:
    """What that name does not say: widths that are not those of every setting in conf/bits, as bits.prob=32."""
    act, weight = bits.get("act"), bits.get("weight")
    usual = {"prob": act, "edge_weight": _edge(weight), "edge_act": _edge(act)}
    others = {key: bits[key] for key in bits if key not in (*_NAMED, "name")}
    own = {key: bits[key] for key in usual if key in bits and bits[key] != usual[key]}
    return [f"bits.{key}={value}" for key, value in {**own, **others}.items()]


def _edge(width: Any) -> int:
    """Bits of the first and last layer at a width of the others."""
    return _FULL if width == _FULL else _EDGE


def bits_of(found: Mapping[str, Any]) -> str:
    """bits_name of a run's metrics.json: older ones were called after a label."""
    bits = found.get("config", {}).get("bits", {})
    return bits_name(bits) if "weight" in bits and "act" in bits else str(found["bits"])


def stage_of(name: str) -> str:
    """The stage of a run's artifact, called after it and the seeds: sample for sample-0-1999."""
    return re.sub(r"-\d.*", "", name)


def few(overrides: Sequence[str]) -> list[str]:
    """Themselves, or how many they are, where a name has no room for all."""
    return list(overrides) if len(overrides) <= _MOST else [f"{len(overrides)} overrides"]


def with_overrides(name: str, overrides: Sequence[str]) -> str:
    """The name with what acts in parentheses."""
    return f"{name} ({', '.join(overrides)})" if overrides else name
