"""Schemes: ordered rules over roles that say how each tensor is quantized.

A rule sets some fields for all sites whose label (`resnet.conv1.weight`) matches its pattern; later rules win field by
field. Every rule must match something and every site must end up with bits, so that nothing is left out in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from itertools import islice
from typing import Any, Literal

from dmq_cli.errors import SchemeError
from dmq_cli.models import Site, fits
from dmq_cli.ops import Ema, LpSearch, LsqStart, MinMax, Percentile, PerChannel, PerInputChannel, PerTensor, SearchedEma
from dmq_cli.quant import ChoiceKind, Ends, ScaleKind, StaticScale, Uniform, check_ends

Granularity = PerTensor | PerChannel | PerInputChannel
Ranges = MinMax | Percentile | LpSearch | LsqStart | Ema | SearchedEma

FULL_PRECISION = 32


@dataclass(frozen=True)
class Spec:
    """How one site is quantized. bits 32 leaves it in full precision; choice: several quantizers, one for each step; range: which
    ends of an activation's range learning moves."""

    bits: int | None = None
    grid: Callable[..., Any] = Uniform
    granularity: Granularity = field(default_factory=PerTensor)
    ranges: Ranges = field(default_factory=MinMax)
    scale: ScaleKind = field(default_factory=StaticScale)
    choice: ChoiceKind | None = None
    split: bool = False
    range: Ends = "scale"

    @property
    def quantized(self) -> bool:
        """Whether the site has fewer bits than full precision."""
        return self.bits != FULL_PRECISION


@dataclass(frozen=True)
class Rule:
    """Fields to set where `match` fits a site's label and `part` its part of the network; None does not change a field.

    match: one pattern or several, separated by "|" (see `models.fits`). scope: the rule holds only in a scheme of this scope. optional: it
    may match nothing (a model without such layers). first: it holds for the first of the sites that fit, in the network's order.
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
    range: Ends | None = None
    scope: str | None = None
    optional: bool = False
    first: bool = False

    def fits(self, site: Site) -> bool:
        """Whether the site's label and part are what the rule is for."""
        return fits(site.label, self.match) and fnmatchcase(site.part, self.part)

    def choose(self, sites: Sequence[Site]) -> list[Site]:
        """The sites that it holds for, of these in the network's order."""
        return list(islice(filter(self.fits, sites), 1 if self.first else None))

    def changes(self) -> dict[str, Any]:
        """The fields it sets, by name."""
        names = [spec_field.name for spec_field in fields(Spec)]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class Scheme:
    """An ordered list of rules. scope: of rules marked with a scope, those with this one apply; range: of the sites for which no
    rule says another, see `Ends`.

    network: which network shows the ranges of activations: the full-precision one, or the one whose weights are quantized already, as
    calibration left them and, before scales alone are learned, as reconstruction did. samples: so many of the calibration set,
    drawn once and for all; None: all. sets, layers: read by the rules of a YAML file alone, which say scheme.sets, so that they can be
    given in words. SchemeError for values that are not known.
    """

    def __init__(
        self, rules: Sequence[Rule], scope: str | None = None, range: Ends = "scale",
        network: Literal["full", "quantized"] = "full", samples: int | None = None, sets: int | None = None, layers: int | None = None,
    ) -> None:  # fmt: skip
        scopes = {rule.scope for rule in rules} - {None}
        if scope is not None and scope not in scopes:
            raise SchemeError(
                f"The scheme has no scope {scope}; use {' or '.join(sorted(map(str, scopes))) or 'none at all'}."
            )
        if network not in ("full", "quantized") or (samples is not None and samples < 1):
            raise SchemeError(
                f"A scheme was asked for network={network}, samples={samples}; use full or quantized, and at least 1 sample, or null."
            )
        self.network, self.samples = network, samples
        self.rules, self.range = [rule for rule in rules if rule.scope in (None, scope)], range
        for ends in (range, *(rule.range for rule in self.rules if rule.range is not None)):
            check_ends(ends)
        for number, rule in enumerate(self.rules, 1):
            _check_bits(number, rule)

    def __add__(self, other: Scheme) -> Scheme:
        """Join two schemes: these rules, then the other's."""
        joined = Scheme([], range=self.range, network=self.network, samples=self.samples)
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
        specs = dict.fromkeys(sites, Spec(range=self.range))
        for rule in self.rules:
            for site in rule.choose(sites):
                specs[site] = replace(specs[site], **rule.changes())
        return specs


def policy(specs: dict[Site, Spec]) -> dict[str, int]:
    """Bits of every label, for people to read: {"edge.in.weight": 8, ...}.

    A label with several widths gets its part, and where one part has several, the names of its layers: {"down_blocks.0.resnets.0.conv1.input": 32, ...}.
    """
    labels, parts = (_of_several_widths(specs, naming) for naming in (_label, _in_part))
    named = {site: _label(site) if _label(site) not in labels else _in_part(site) for site in specs}
    named |= {site: f"{site.module}.{site.slot}" for site, name in named.items() if name in parts}
    return {named[site]: int(spec.bits or FULL_PRECISION) for site, spec in specs.items()}


def _label(site: Site) -> str:
    return site.label


def _in_part(site: Site) -> str:
    return f"{site.part}:{site.label}"


def _of_several_widths(specs: dict[Site, Spec], naming: Callable[[Site], str]) -> set[str]:
    """The names that sites of different widths have in common."""
    widths: dict[str, set[int | None]] = {}
    for site, spec in specs.items():
        widths.setdefault(naming(site), set()).add(spec.bits)
    return {name for name, bits in widths.items() if len(bits) > 1}


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
