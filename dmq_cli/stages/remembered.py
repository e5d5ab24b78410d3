"""How long a stage took here before, for `dmq plan` and the time left of a job: the manifests of artifacts say it."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from dmq_cli.sampling import parse_range
from dmq_cli.stages.graph import Graph

_SAME_WORK = ("scheme", "policy", "measured_with", "to_uint8")
"""Sections that decide little about how long a stage takes: it may differ in these from what is planned."""


def remembered_seconds(graph: Graph, stage: str, config: Mapping[str, Any]) -> float | None:
    """The median time of artifacts of this stage that were as much work, on this device; None if there is none.

    Of another number of seeds, in proportion.
    """
    wanted, runtime = graph.nodes[stage].identity(config), config["runtime"]
    times = []
    for manifest in graph.manifests(stage):
        sections = manifest["config"]
        if manifest.get("device") != runtime["device"]:
            continue
        differing = {name for name in {**wanted, **sections} if wanted.get(name) != sections.get(name)}
        if differing <= {*_SAME_WORK, "seeds"}:
            times.append(float(manifest["seconds"]) * _share(wanted, sections))
    return statistics.median(times) if times else None


def expected_seconds(
    graph: Graph, targets: Iterable[tuple[str, Mapping[str, Any]]]
) -> dict[tuple[str, str], float | None]:
    """Stage and key of all that these targets, stages with their configurations, have to compute; see remembered_seconds."""
    found: dict[tuple[str, str], float | None] = {}
    for name, config in targets:
        for part in graph.chain(name, config):
            key = graph.key(part, config)
            if part in config["runtime"]["force"] or graph.store.find(part, key) is None:
                found[part, key] = remembered_seconds(graph, part, config)
    return found


def _share(wanted: Mapping[str, Any], sections: Mapping[str, Any]) -> float:
    """How many times as many seeds are planned."""
    if "seeds" not in wanted or wanted["seeds"] == sections.get("seeds"):
        return 1.0
    return len(parse_range(wanted["seeds"])) / len(parse_range(sections["seeds"]))
