"""Bits of single layers from the command line change the policy, and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dmq_cli.errors import ConfigError
from dmq_cli.stages.layer_bits import with_layer_bits
from tests.chain import dmq

POLICY = {"_target_": "dmq_cli.wrap.Scheme", "rules": [{"match": "edge.*", "bits": 8}]}


def policy(*words: str) -> dict[str, int]:
    result = dmq("cost", "bits=w4a8", *words, "--json")
    assert result.code == 0, result.err
    bits: dict[str, int] = json.loads(result.out)["policy"]
    return bits


def test_a_pattern_sets_the_bits_of_what_it_fits() -> None:
    plain, changed = policy(), policy("layer_bits=resnet.conv1.weight=6; down:resnet.conv1.weight=3")
    differences = {label: bits for label, bits in changed.items() if plain.get(label) != bits}
    assert set(differences.values()) == {3, 6} and all("resnet.conv1.weight" in label for label in differences)
    assert policy("layer_bits=null") == plain


def test_without_it_the_configuration_is_what_it_was() -> None:
    config: dict[str, Any] = {"policy": POLICY, "layer_bits": None, "a": 1}
    assert with_layer_bits(config) == {"policy": POLICY, "a": 1}


@pytest.mark.parametrize("text", ["attn", "attn=x", "attn.*=1", "a=8;;b", "=4"])
def test_another_text_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"layer_bits=.* is no PATTERN=BITS"):
        with_layer_bits({"policy": POLICY, "layer_bits": text})


def test_a_pattern_that_fits_nothing_is_refused() -> None:
    result = dmq("cost", "layer_bits=nowhere.*=4")
    assert result.code == 2 and "nowhere" in result.sentence
