"""Widths by name without a file: bits=w5a7, and bits=w4a8e4 with 4 bits at both ends of the network."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.overrides.shape import choices
from dmq_cli.results.naming import edge_bits

_NAME = re.compile(r"\bw(\d+)a(\d+)(?:e(\d+))?\b")
_WIDTHS = (*range(2, 17), 32)


def register_bits(words: Sequence[str]) -> None:
    """Register every width that the overrides of `bits` name as a choice with Hydra. Raises ConfigError for an impossible width."""
    from hydra.core.config_store import ConfigStore

    for name, section in _named(words):
        ConfigStore.instance().store(group="bits", name=name, node=section, provider="dmq")


def is_width(name: str) -> bool:
    """Whether a choice of `bits` needs no file, as w5a7."""
    return _NAME.fullmatch(name) is not None


def _named(words: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    names = set(choices("bits"))
    for word in words:
        key, _, value = word.partition("=")
        for match in _NAME.finditer(value) if key == "bits" else ():
            if match[0] not in names:
                yield match[0], _section(match[0], *(None if width is None else int(width) for width in match.groups()))


def _section(name: str, weight: int | None, act: int | None, edge: int | None) -> dict[str, Any]:
    for width in (weight, act, edge):
        if width is not None and width not in _WIDTHS:
            raise ConfigError(f"bits={name} was asked for, but {width} bits are not possible; give 2 to 16, or 32.")
    return {
        "name": name,
        "weight": weight,
        "act": act,
        "prob": "${.act}",
        "edge_weight": edge_bits(weight) if edge is None else edge,
        "edge_act": edge_bits(act) if edge is None else edge,
    }
