"""Schemes: ordered rules over roles that say how each tensor is quantized.

A rule sets some fields for all sites whose label (`resnet.conv1.weight`) matches its pattern; later rules win field by
field. Every rule must match something and every site must end up with bits, so that nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from dmq_cli.errors import SchemeError
from dmq_cli.models import Site, fits
from dmq_cli.ops import Ema, LpSearch, MinMax, Percentile, PerChannel, PerInputChannel, PerTensor
from dmq_cli.quant import ChoiceKind, ScaleKind, StaticScale, Uniform

Granularity = PerTensor | PerChannel | PerInputChannel
Ranges = MinMax | Percentile | LpSearch | Ema

FULL_PRECISION = 32


@dataclass(frozen=True)
class Spec:
    """How one site is quantized. bits 32 leaves it in full precision; choice: several quantizers, one for each step."""

    bits: int | None = None
    grid: Callable[..., Any] = Uniform
    granularity: Granularity = field(default_factory=PerTensor)
    ranges: Ranges = field(default_factory=MinMax)
    scale: ScaleKind = field(default_factory=StaticScale)
    choice: ChoiceKind | None = None
    split: bool = False

    @property
    def quantized(self) -> bool:
        return self.bits != FULL_PRECISION


@dataclass(frozen=True)
class Rule:
    """Fields to set where `match` fits a site's label and `part` its part of the network; None does not change a field.

    match: one pattern or several, separated by "|" (see `models.fits`). scope: the rule holds only in a scheme of this scope. optional: it
    may match nothing (a model without such layers).
    """

    match: str
    part: str = "*"
    bits: int | None = None
    grid: Callable[..., Any] | None = None
    granularity: Granularity | None = None
    ranges: Ranges | None = None
    scale: ScaleKind | None = None
    choice: ChoiceKind | None = None
    split: bool | None = None
    scope: str | None = None
    optional: bool = False

    def fits(self, site: Site) -> bool:
        return fits(site.label, self.match) and fnmatchcase(site.part, self.part)

    def changes(self) -> dict[str, Any]:
        names = [spec_field.name for spec_field in fields(Spec)]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Scheme:
    """An ordered list of rules. scope: of rules marked with a scope, those with this one apply."""

    def __init__(self, rules: Sequence[Rule], scope: str | None = None) -> None:
        scopes = {rule.scope for rule in rules} - {None}
        if scope is not None and scope not in scopes:
            raise SchemeError(
                f"The scheme has no scope {scope}; use {' or '.join(sorted(map(str, scopes))) or 'none at all'}."
            )
        self.rules = [rule for rule in rules if rule.scope in (None, scope)]
        for number, rule in enumerate(self.rules, 1):
            _check_bits(number, rule)

    def __add__(self, other: Scheme) -> Scheme:
        """Join two schemes: these rules, then the other's."""
        joined = Scheme([])
        joined.rules = self.rules + other.rules
        return joined

    def resolve(self, sites: Sequence[Site]) -> dict[Site, Spec]:
        """Find the specification of every site. Raises SchemeError for a rule that matches nothing or a site without bits."""
        for number, rule in enumerate(self.rules, 1):
            if not rule.optional and not any(rule.fits(site) for site in sites):
                _refuse(number, rule, sites)
        specs = self.fold(sites)
        bare = [site.name for site, spec in specs.items() if spec.bits is None]
        if bare:
            raise SchemeError(
                f"The scheme gives no bits to {len(bare)} of {len(sites)} sites (first: {bare[0]}); add a rule, with bits 32 to leave them as they are."
            )
        return specs

    def fold(self, sites: Sequence[Site]) -> dict[Site, Spec]:
        """Apply the rules to these sites, without checking that every rule matches and every site has bits."""
        specs = dict.fromkeys(sites, Spec())
        for rule in self.rules:
            for site in filter(rule.fits, sites):
                specs[site] = replace(specs[site], **rule.changes())
        return specs


def policy(specs: dict[Site, Spec]) -> dict[str, int]:
    """Bits of every label, for people to read: {"edge.in.weight": 8, ...}; a label with several widths gets its part."""
    widths: dict[str, set[int | None]] = {}
    for site, spec in specs.items():
        widths.setdefault(site.label, set()).add(spec.bits)
    named = {s: s.label if len(widths[s.label]) == 1 else f"{s.part}:{s.label}" for s in specs}
    return {named[site]: int(spec.bits or FULL_PRECISION) for site, spec in specs.items()}


def deployable(specs: dict[Site, Spec]) -> bool:
    """Whether scales can be applied after an integer product: not those of each input channel of an activation."""
    return not any(spec.quantized and isinstance(spec.granularity, PerInputChannel) for spec in specs.values())


def _check_bits(number: int, rule: Rule) -> None:
    bits = rule.bits
    if bits is not None and not (isinstance(bits, int) and (2 <= bits <= 16 or bits == FULL_PRECISION)):
        raise SchemeError(
            f"Scheme rule {number} ({rule.match}) asks for {bits!r} bits; give a whole number from 2 to 16, or 32 for full precision."
        )


def _refuse(number: int, rule: Rule, sites: Sequence[Site]) -> None:
    labels = ", ".join(sorted({site.label for site in sites}))
    part = "" if rule.part == "*" else f" in part {rule.part}"
    raise SchemeError(
        f"Scheme rule {number} ({rule.match}{part}) matches none of the {len(sites)} sites of this model; labels here: {labels}."
    )
