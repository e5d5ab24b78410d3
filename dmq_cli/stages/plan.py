"""What a command would compute, why, and about how long it would take."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from dmq_cli.stages import build
from dmq_cli.stages.graph import Graph
from dmq_cli.stages.prepare import Prepared, prepared
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.sampler_notes import sampled_how
from dmq_cli.stages.verbs import graph, targets

_PROBE = 32  # samples in the forward pass that the estimate rests on


def planned(composed: Mapping[str, Any], verb: str) -> dict[str, Any]:
    """`plan`: see there; and what sampled_how tells."""
    made = prepared({**composed, "stage": verb})
    return {"plan": _rows(made, verb), **sampled_how(composed, made.config)}


def plan(composed: Mapping[str, Any], verb: str) -> list[dict[str, Any]]:
    """One row for every stage of the verb: stage, seeds, key, cached, why, seconds (estimated; None if cached)."""
    return _rows(prepared({**composed, "stage": verb}), verb)


def _rows(found: Prepared, verb: str) -> list[dict[str, Any]]:
    config, rows, seen = found.config, [], set()
    made = graph(config, Progress(quiet=True))
    for name, own in targets(verb, config):
        for part in made.chain(name, own):
            key = made.key(part, own)
            if (part, key) not in seen:
                seen.add((part, key))
                rows.append(_row(made, part, key, Prepared(own, found.parts)))
    if any(row["work"] for row in rows if not row["cached"]):
        speed = _seconds_per_call(config)
        for row in rows:
            row["seconds"] = None if row["cached"] else round(row["work"] * speed, 1)
    return rows


def _row(made: Graph, part: str, key: str, found: Prepared) -> dict[str, Any]:
    config = found.config
    cached = made.store.find(part, key) is not None and part not in config["runtime"]["force"]
    forced = part in config["runtime"]["force"]
    why = "in the store" if cached else "forced" if forced else made.why_missing(part, config)
    seeds = config["seeds"] if part.startswith(("sample", "evaluate")) else ""
    work = made.nodes[part].cost(config, found.parts)
    return {"stage": part, "seeds": seeds, "key": key[:8], "cached": cached, "why": why, "work": work, "seconds": None}


@torch.inference_mode()
def _seconds_per_call(config: Mapping[str, Any]) -> float:
    """Time of one network call on one sample, measured now, in float32, which only sampling may leave."""
    adapter = build.adapter({"model": config["model"]}, config["runtime"])
    sample = torch.zeros(_PROBE, *adapter.sample_shape(), device=config["runtime"]["device"])
    timestep = torch.zeros(_PROBE, dtype=torch.int64, device=sample.device)
    cond = adapter.blank_cond(_PROBE)
    adapter.predict(sample, timestep, cond)
    start = time.perf_counter()
    adapter.predict(sample, timestep, cond)
    return (time.perf_counter() - start) / _PROBE
