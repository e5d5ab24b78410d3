"""Bits of the network's ends, for widths that have no file."""

from __future__ import annotations

import pytest

from dmq_cli.overrides.bits import register_bits
from dmq_cli.results.naming import bits_name, bits_overrides
from tests.test_conf import composed


@pytest.mark.parametrize(
    ("bits", "weight", "act", "called"),
    [
        ("w5a7", 8, 8, "w5a7"), ("w8a32", 8, 32, "w8a32"), ("w32a8", 32, 8, "w32a8"), ("w32a32", 32, 32, "fp"),
        ("w4a8e4", 4, 4, "w4a8"), ("w4a32e6", 6, 6, "w4a32"), ("w8a32e32", 32, 32, "w8a32"),
    ],
)  # fmt: skip
def test_ends_of_widths_without_a_file_are_as_wide_as_in_a_file(bits: str, weight: int, act: int, called: str) -> None:
    register_bits([f"bits={bits}"])
    section = composed(f"bits={bits}")["bits"]
    assert (section["edge_weight"], section["edge_act"]) == (weight, act)
    assert bits_name(section) == called
    named = {f"bits.edge_{kind}={width}" for kind, width in (("weight", weight), ("act", act))}
    assert bits_overrides(section) == [] if "e" not in bits else set(bits_overrides(section)) <= named
