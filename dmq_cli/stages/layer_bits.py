"""Bits of single layers from the command line: layer_bits='attn.*.weight=8; down:resnet.conv1.*=6'."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ConfigError

_ENTRY = re.compile(r"(?:(?P<part>[\w*?]+):)?(?P<match>[\w.*?|\[\]]+)=(?P<bits>\d+)")


def with_layer_bits(config: Mapping[str, Any]) -> dict[str, Any]:
    """Append a rule to the policy for every entry of `layer_bits`, and drop that key from the configuration.

    An entry is PATTERN=BITS or PART:PATTERN=BITS, of the labels and parts that rules of a scheme match; entries are separated by
    semicolons, and of several that fit a layer the last one wins. Raises ConfigError for another text.
    """
    other_sections = {name: value for name, value in config.items() if name != "layer_bits"}
    text = config.get("layer_bits")
    if text is None:
        return other_sections
    policy = config["policy"]
    if "rules" not in policy:
        raise ConfigError(
            f"layer_bits={text} was given, but the policy {policy.get('_target_')} has no rules; leave one of them out."
        )
    rules = [_rule(str(text), entry.strip()) for entry in str(text).split(";") if entry.strip()]
    return {**other_sections, "policy": {**policy, "rules": [*policy["rules"], *rules]}}


def _rule(text: str, entry: str) -> dict[str, Any]:
    match = _ENTRY.fullmatch(entry)
    if match is None or not 2 <= int(match["bits"]) <= 32:
        raise ConfigError(
            f"layer_bits={text} was given, but {entry} is no PATTERN=BITS with 2 to 32 bits; write layer_bits='attn.*.weight=8'."
        )
    part = {} if match["part"] is None else {"part": match["part"]}
    return {"_target_": "dmq_cli.wrap.Rule", "match": match["match"], "bits": int(match["bits"]), **part}
