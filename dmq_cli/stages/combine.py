"""Combinations of parts that make no sense, refused before anything is computed."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from dmq_cli.calib import Tdac
from dmq_cli.errors import ConfigError, DmqError, SchemeError
from dmq_cli.models import ATTENTION_SLOTS, LAYER_SLOTS, PARTS, PRODUCTS, ROLES, Site, has_mid_attention
from dmq_cli.ops import LpSearch, MinMax, Percentile
from dmq_cli.quant import Log2, PerStepScale
from dmq_cli.wrap import Rule, Scheme, Spec

_log = logging.getLogger("dmq")
_SEARCHES: dict[str, LpSearch | Percentile] = {
    "dmq_cli.ops.LpSearch": LpSearch(),
    "dmq_cli.ops.Percentile": Percentile(),
}


def check_strategy(strategy: Any, model: Mapping[str, Any]) -> None:
    """Raise ConfigError for TDAC with a network that has no attention in its mid-block, whose features it compares."""
    if isinstance(strategy, Tdac) and not has_mid_attention(model):
        raise ConfigError(
            f"The calibration strategy tdac reads the attention of the mid-block, but {model['name']} has none there; use calib=uniform."
        )


def check_combination(scheme: Scheme, recon: Any) -> None:
    """Raise SchemeError for learned rounding of weights that lie on a log2 grid."""
    if not recon.learns_rounding:
        return
    for site, spec in _resolved(scheme, "weight"):
        if spec.quantized and spec.bits and isinstance(spec.grid(bits=spec.bits), Log2):
            raise SchemeError(
                f"The reconstruction learns how weights are rounded, but the scheme puts {site.label} on a Log2 grid, which"
                " has no neighbours to choose between; use a Uniform grid for weights, or recon=none."
            )


def searches_activations(sections: Sequence[Any]) -> bool:
    """Whether one of dmq's own searches over values chooses a range of an activation.

    sections: `scheme` and `policy` as configured. Nothing of them is made, so that the answer is the same wherever it is asked;
    False for what cannot be made, which preparing refuses.
    """
    activations = [slot for slot in (*LAYER_SLOTS, *ATTENTION_SLOTS) if slot != "weight"]
    try:
        scheme = Scheme([_ranges_of(rule) for section in sections for rule in _rules(section)])
        return any(spec.quantized and spec.ranges.needs_values for _, spec in _resolved(scheme, *activations))
    except (DmqError, TypeError, AttributeError, KeyError):
        return False


def _rules(section: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [rule for rule in section["rules"] if rule.get("scope") in (None, section.get("scope"))]


def _ranges_of(rule: Mapping[str, Any]) -> Rule:
    """What of a rule says which ranges are searched."""
    given = rule.get("ranges")
    ranges = None if given is None else _SEARCHES.get(given["_target_"], MinMax())
    return Rule(rule["match"], part=rule.get("part", "*"), bits=rule.get("bits"), ranges=ranges)


def _resolved(scheme: Scheme, *slots: str) -> Iterator[tuple[Site, Spec]]:
    """What the rules come to for these slots of every role, without a network."""
    roles = {role: ATTENTION_SLOTS if role in PRODUCTS else LAYER_SLOTS for role in ROLES}
    sites = [
        Site(f"{part}.{role}", role, slot, part)
        for role, has in roles.items() for part in PARTS for slot in slots if slot in has
    ]  # fmt: skip
    yield from scheme.fold(sites).items()


def check_steps(scheme: Scheme, calibrated: Tensor, sampled: Tensor) -> None:
    """Tables by step must have a row near every timestep of the sampler; says so where rows are taken from neighbours.

    calibrated, sampled: (S,) timesteps. Near is within the greatest gap between calibrated ones. Raises ConfigError.
    """
    tables = any(isinstance(rule.scale, PerStepScale) or rule.choice is not None for rule in scheme.rules)
    distance = (sampled[:, None] - calibrated[None]).abs().amin(1)
    if not tables or not bool(distance.any()):
        return
    ordered = calibrated.sort().values
    gap = int((ordered[1:] - ordered[:-1]).max()) if len(ordered) > 1 else 0
    if int(distance.max()) > gap:
        far = int(sampled[distance.argmax()])
        raise ConfigError(
            f"The scheme has tables by step, calibrated at {len(calibrated)} timesteps ({int(ordered[0])} to {int(ordered[-1])}), and"
            f" timestep {far} of the sampler is near none of them; leave calibrated_steps at null, or take scheme=tdq."
        )
    _log.info(
        "tables by step: %d of %d timesteps take the row of the nearest calibrated one",
        int((distance > 0).sum()), len(sampled),
    )  # fmt: skip
