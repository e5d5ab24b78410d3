"""Plan a command: the stages it would compute, why, and about how long each takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dmq_cli.models import Adapter, sample_bytes
from dmq_cli.sampling import parse_range
from dmq_cli.stages import build, workers
from dmq_cli.stages.cuts import CUTS, is_cut, working
from dmq_cli.stages.graph import Graph
from dmq_cli.stages.prepare import Prepared, prepared
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.remembered import remembered_seconds
from dmq_cli.stages.sampler_notes import sampled_how
from dmq_cli.stages.shards import Shards
from dmq_cli.stages.verbs import graph, targets
from dmq_cli.store.files import free_bytes

_PROBE = 64  # largest number of samples in the timed forward pass
_LONGEST = 3.0  # seconds that this forward pass may take; if it would take longer, a single sample is timed


def planned(composed: Mapping[str, Any], verb: str) -> dict[str, Any]:
    """Plan a verb: the rows of `plan`, disk space in bytes, and the notes of sampled_how."""
    prepared_run = prepared({**composed, "stage": verb})
    rows = _rows(prepared_run, verb)
    return {"plan": rows, "disk": _disk(prepared_run.config, rows), **sampled_how(composed, prepared_run.config)}


def plan(composed: Mapping[str, Any], verb: str) -> list[dict[str, Any]]:
    """List a row for every stage of the verb: stage, seeds, key, cached, why, seconds (estimated; None if cached) and from,
    the source of the estimate: earlier runs of as much work on this machine, or a call of the network timed now."""
    return _rows(prepared({**composed, "stage": verb}), verb)


def _rows(run: Prepared, verb: str) -> list[dict[str, Any]]:
    config, rows, visited = run.config, [], set()
    stage_graph = graph(config, Progress(quiet=True))
    for name, range_config in targets(verb, config):
        for part in stage_graph.chain(name, range_config):
            key = stage_graph.key(part, range_config)
            if (part, key) not in visited:
                visited.add((part, key))
                rows.append(_row(stage_graph, part, key, Prepared(range_config, run.parts)))
    waiting = [row for row in rows if not row["cached"]]
    probed = any(row["work"] and row["before"] is None for row in waiting)
    speed = _seconds_per_call(config) if probed else 0.0
    for row in waiting:
        before = row["before"]
        row["seconds"] = round(row["work"] * speed if before is None else before, 1)
        row["from"] = "probed" if before is None else "earlier runs"
    return rows


def _row(stage_graph: Graph, part: str, key: str, run: Prepared) -> dict[str, Any]:
    config = run.config
    cached = stage_graph.store.find(part, key) is not None and part not in config["runtime"]["force"]
    forced = part in config["runtime"]["force"]
    why = "in the store" if cached else "forced" if forced else stage_graph.why_missing(part, config)
    seeds = config["seeds"] if part.startswith(("sample", "evaluate")) else ""
    work = stage_graph.nodes[part].cost(config, run.parts) / working(part, config)
    before = None if cached else remembered_seconds(stage_graph, part, config)
    if not cached and is_cut(part, config):
        missing = 1 - Shards(stage_graph, part, config).there()
        work, before = work * missing, None if before is None else before * missing
        why += f"; {1 - missing:.0%} of its {CUTS[part].what} are there" if missing < 1 else ""
    row = {"stage": part, "seeds": seeds, "key": key[:8], "cached": cached, "why": why, "work": work}
    return {**row, "before": before, "seconds": None, "from": None}


@torch.inference_mode()
def _seconds_per_call(config: Mapping[str, Any]) -> float:
    """Measure seconds per network call and sample, at the run's batch size and threads, in float32."""
    runtime = config["runtime"]
    torch.set_num_threads(workers.threads(runtime))
    adapter = build.adapter({"model": config["model"]}, runtime)
    _time(adapter, 1, runtime["device"])
    single = _time(adapter, 1, runtime["device"])
    count = min(runtime["batch_size"], _PROBE)
    return single if single * count > _LONGEST else _time(adapter, count, runtime["device"]) / count


def _time(adapter: Adapter, count: int, device: str) -> float:
    """Seconds of one call on this many samples."""
    sample = torch.zeros(count, *adapter.sample_shape(), device=device)
    timestep, cond = torch.zeros(count, dtype=torch.int64, device=device), adapter.blank_cond(count)
    start = time.perf_counter()
    adapter.predict(sample, timestep, cond).flatten()[0].item()  # which waits for a device to be done
    return time.perf_counter() - start


def _disk(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> dict[str, int | None]:
    """Bytes of the images to be sampled, and free bytes of the disk they are written to."""
    images = sum(
        len(parse_range(row["seeds"])) for row in rows if row["stage"].startswith("sample") and not row["cached"]
    )
    return {
        "images": images * sample_bytes(config["model"]) if images else 0,
        "free": free_bytes(Path(config["runtime"]["outputs"])),
    }
