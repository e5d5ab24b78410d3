"""How long a stage took on this machine before, by the manifests of its artifacts: for `dmq plan` and the time left of a job."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any

from dmq_cli.sampling import parse_range
from dmq_cli.stages.cuts import working
from dmq_cli.stages.graph import Graph

_SAME_WORK = ("scheme", "policy", "measured_with", "to_uint8")
"""Sections that hardly change how long a stage takes, so that an artifact which differs only in these counts."""


def remembered_seconds(graph: Graph, stage: str, config: Mapping[str, Any]) -> float | None:
    """Median seconds of the artifacts of this stage that took the same work, on this device; None if there is none.

    Times for another number of seeds, or of workers where these share the work, are scaled in proportion.
    """
    planned, runtime = graph.nodes[stage].identity(config), config["runtime"]
    times = []
    for manifest in graph.manifests(stage):
        sections = manifest["config"]
        if manifest.get("device") != runtime["device"]:
            continue
        differing = {name for name in {**planned, **sections} if planned.get(name) != sections.get(name)}
        if differing <= {*_SAME_WORK, "seeds"}:
            shared = manifest.get("workers", 1) / working(stage, config)
            times.append(float(manifest["seconds"]) * _share(planned, sections) * shared)
    return statistics.median(times) if times else None


def expected_seconds(
    graph: Graph, targets: Iterable[tuple[str, Mapping[str, Any]]]
) -> dict[tuple[str, str], float | None]:
    """Seconds of every artifact that these targets, (stage, configuration), have yet to compute, by stage and key; see
    remembered_seconds.
    """
    seconds: dict[tuple[str, str], float | None] = {}
    for target, config in targets:
        for stage in graph.chain(target, config):
            key = graph.key(stage, config)
            if stage in config["runtime"]["force"] or graph.store.find(stage, key) is None:
                seconds[stage, key] = remembered_seconds(graph, stage, config)
    return seconds


def _share(planned: Mapping[str, Any], sections: Mapping[str, Any]) -> float:
    """The number of planned seeds over the number of recorded ones."""
    if "seeds" not in planned or planned["seeds"] == sections.get("seeds"):
        return 1.0
    return len(parse_range(planned["seeds"])) / len(parse_range(sections["seeds"]))
