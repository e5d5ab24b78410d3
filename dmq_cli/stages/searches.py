"""Which ranges a scheme searches for, by its configuration alone: part of the version of `calibrate`. Imports no diffusers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from dmq_cli.errors import DmqError
from dmq_cli.models import ATTENTION_SLOTS, LAYER_SLOTS, PARTS, PRODUCTS, ROLES, Site
from dmq_cli.ops import LpSearch, MinMax, Percentile, SearchedEma
from dmq_cli.wrap import Rule, Scheme, Spec

_SEARCHES: dict[str, LpSearch | Percentile | SearchedEma] = {
    "dmq_cli.ops.LpSearch": LpSearch(),
    "dmq_cli.ops.Percentile": Percentile(),
    "dmq_cli.ops.SearchedEma": SearchedEma(),
}


def searches_activations(sections: Sequence[Any]) -> bool:
    """Whether one of dmq's own searches over values chooses a range of an activation.

    sections: `scheme` and `policy` as configured; they are read, not made, so that the answer does not depend on foreign code.
    False for sections that cannot be made, which preparing refuses.
    """
    activations = [slot for slot in (*LAYER_SLOTS, *ATTENTION_SLOTS) if slot != "weight"]
    try:
        scheme = Scheme([_ranges_of(rule) for section in sections for rule in _rules(section)])
        return any(spec.quantized and spec.ranges.needs_values for _, spec in resolved(scheme, *activations))
    except (DmqError, TypeError, AttributeError, KeyError):
        return False


def _rules(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [rule for rule in section["rules"] if rule.get("scope") in (None, section.get("scope"))]


def _ranges_of(rule: Mapping[str, Any]) -> Rule:
    """Make a Rule of the entries that decide which ranges are searched."""
    section = rule.get("ranges")
    ranges = None if section is None else _SEARCHES.get(section["_target_"], MinMax())
    first = rule.get("first", False)
    return Rule(rule["match"], part=rule.get("part", "*"), bits=rule.get("bits"), ranges=ranges, first=first)


def resolved(scheme: Scheme, *slots: str) -> Iterator[tuple[Site, Spec]]:
    """Resolve the rules for these slots of every role, without a network."""
    roles = {role: ATTENTION_SLOTS if role in PRODUCTS else LAYER_SLOTS for role in ROLES}
    sites = [
        Site(f"{part}.{role}", role, slot, part)
        for role, has in roles.items() for part in PARTS for slot in slots if slot in has
    ]  # fmt: skip
    yield from scheme.fold(sites).items()
