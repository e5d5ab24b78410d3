"""Run a verb of the command line on a configuration."""

from __future__ import annotations

import logging
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dmq_cli.results.record import as_metrics
from dmq_cli.sampling import parse_ranges, show
from dmq_cli.stages import results, workers
from dmq_cli.stages.cuts import is_cut
from dmq_cli.stages.deliver import deliver
from dmq_cli.stages.exported import check_exported_words, has_base
from dmq_cli.stages.graph import Graph
from dmq_cli.stages.loggers import log_run, make_logger
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.ranks import Launch, on_rank, place
from dmq_cli.stages.remembered import expected_seconds
from dmq_cli.stages.sampler_notes import sampled_how, sampler_line
from dmq_cli.stages.shards import Shards
from dmq_cli.stages.shared_units import SharedUnits, is_shared, passes
from dmq_cli.stages.stopping import at_signals
from dmq_cli.stages.workers import Helpers, Target
from dmq_cli.store import ArtifactStore, Run, create_run, digest, environment, now

VERBS = ("calibrate", "reconstruct", "correct", "sample", "evaluate", "export")
_log = logging.getLogger("dmq")


def targets(verb: str, config: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the nodes of a verb, each with its configuration; sampling and evaluation once for each seed range.

    fp_seeds, if given, are ranges on which evaluation measures the full-precision twin, too. Evaluation also traces a few
    trajectories, once, unless `trace` is null.
    """
    if verb not in ("sample", "evaluate"):
        yield verb, {**config, "seeds": show(parse_ranges(config["seeds"])[0])}
        return
    for seeds in parse_ranges(config["seeds"]):
        range_config = {**config, "seeds": show(seeds)}
        if "exported" not in config or has_base(config):
            yield f"{verb}_fp", range_config
        yield verb, range_config
    if verb == "evaluate" and config.get("fp_seeds") is not None:
        for seeds in parse_ranges(config["fp_seeds"]):
            yield "evaluate_fp", {**config, "seeds": show(seeds)}
    if verb == "evaluate" and config.get("trace") is not None:
        yield "trace", {**config, "seeds": show(parse_ranges(config["seeds"])[0])}


def needs(config: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Stage and key of every artifact that a run with this prepared configuration uses, computed or not."""
    stage_graph = graph(config, Progress(quiet=True))
    parts = [
        (part, range_config)
        for name, range_config in targets(config["stage"], config)
        for part in stage_graph.chain(name, range_config)
    ]
    shards = [Shards(stage_graph, *part).artifacts() for part in parts if is_cut(*part)]
    units = [
        SharedUnits(stage_graph, range_config).artifacts() for part, range_config in parts if part == "reconstruct"
    ]
    return {(part, stage_graph.key(part, range_config)) for part, range_config in parts}.union(*shards, *units)


def graph(config: Mapping[str, Any], progress: Progress) -> Graph:
    """The graph of all stages over the store of this configuration."""
    return Graph(NODES, ArtifactStore(Path(config["runtime"]["outputs"]) / "artifacts", lock_of(config)), progress)


def lock_of(config: Mapping[str, Any]) -> str:
    """The kind of locks of a configuration; runs from before there were several have none."""
    return str(config.get("store", {}).get("lock", "auto"))


def take_part(run_targets: Sequence[Target], alive: Callable[[], bool]) -> None:
    """Take part in the artifacts that another process makes of shards or shared units, until all are there or it is no longer alive."""
    for name, config in run_targets:
        stage_graph = graph(config, Progress(quiet=True))
        for part in stage_graph.chain(name, config):
            if stage_graph.store.find(part, stage_graph.key(part, config)) is not None:
                continue
            if is_cut(part, config):
                Shards(stage_graph, part, config).assist(alive)
            if part == "reconstruct" and passes(config):
                SharedUnits(stage_graph, config).assist(alive)


def run(composed: Mapping[str, Any], command: str, quiet: bool = False) -> dict[str, Any]:
    """Run the verb `composed["stage"]` and return its result: metrics for evaluate, paths for the others.

    Of several processes that torchrun or srun started the first does; the others help it, and their result is empty.

    Writes outputs/runs/<verb>/<time>-<key>/ with config, manifest, log, links to the artifacts and, for evaluate,
    metrics.json and samples.png. A finished cell of a table is returned from outputs/tables without computing.
    """
    verb = composed["stage"]
    check_exported_words(composed, shlex.split(command)[2:])
    config = prepare(composed)
    logger = make_logger(composed.get("logger"))
    ranks = place()
    config["runtime"] = on_rank(config["runtime"], ranks)
    if threads := config["runtime"]["threads"]:
        torch.set_num_threads(threads)
    stage_graph = graph(config, Progress(quiet or not ranks.first))
    nodes = list(targets(verb, config))
    key = digest(
        [stage_graph.key(name, range_config) for name, range_config in nodes if name != "trace"]
    )  # no number depends on the trace
    launch = Launch(ranks, Path(config["runtime"]["outputs"]), key, lock_of(config))
    if not ranks.first:
        with at_signals():
            _help_first(launch, stage_graph, nodes, config)
        return {}
    cell = results.cell_folder(config, key)
    if cell is not None and (cell_metrics := results.finished(cell, key)) is not None:
        _log.info("%s is finished: %s", results.title(config), cell)
        return {**cell_metrics, "cell": str(cell)}
    folder = create_run(Path(config["runtime"]["outputs"]) / "runs", verb, key, dict(config), lock_of(config))
    stage_graph.helpers = Helpers(config, nodes)
    with results.logging_to(folder.log), at_signals(), launch.leading(workers.threads(config["runtime"])):
        with folder:
            try:
                _log_sampling(config if "exported" in config else composed, config)
                result = _run(folder, verb, config, stage_graph, nodes, key, command, cell)
            finally:
                stage_graph.helpers.stop()
        if verb in ("reconstruct", "evaluate"):
            log_run(logger, folder.path, {**results.labels(config), **result})
    return result


def _help_first(launch: Launch, stage_graph: Graph, run_targets: Sequence[Target], config: Mapping[str, Any]) -> None:
    """Do what a process does that is not the first of its launch: train, where that is started by torchrun, and make shards."""
    if "RANK" in os.environ and config["recon"].get("_target_") == "dmq_cli.qat.Qat" and config["stage"] != "calibrate":
        stage_graph.assist("reconstruct", run_targets[0][1])
    cut = [target for target in run_targets if _is_unfinished(stage_graph, *target)]
    threads = launch.join(lambda: not any(_is_unfinished(stage_graph, *target) for target in cut))
    if threads is not None:
        torch.set_num_threads(threads)
        runtime = {**config["runtime"], "threads": threads}
        take_part([(name, {**range_config, "runtime": runtime}) for name, range_config in cut], launch.alive)


def _is_unfinished(stage_graph: Graph, name: str, config: Mapping[str, Any]) -> bool:
    """Whether a target rests on an artifact that several processes make and that is not there."""
    parts = [part for part in stage_graph.chain(name, config) if is_cut(part, config) or is_shared(part, config)]
    return any(stage_graph.store.find(part, stage_graph.key(part, config)) is None for part in parts)


def _log_sampling(composed: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Log the sampling settings of the run."""
    notes = sampled_how(composed, config)
    if "sampler" in notes:
        _log.info("%s", sampler_line(notes["sampler"]))
    if "guidance" in notes:
        _log.info("%s", notes["guidance"])


def _run(
    folder: Run, verb: str, config: dict[str, Any], stage_graph: Graph, nodes: list[tuple[str, dict[str, Any]]], key: str,
    command: str, cell: Path | None,
) -> dict[str, Any]:  # fmt: skip
    started = time.monotonic()
    _log.info("%s: %s", verb, results.title(config))
    stage_graph.progress.expect(expected_seconds(stage_graph, nodes))
    paths: dict[str, Path] = {}
    for name, range_config in nodes:
        stage_graph.ensure(name, range_config)
        for part in stage_graph.chain(name, range_config):
            artifact = stage_graph.store.find(part, stage_graph.key(part, range_config))
            if artifact is not None:
                paths[f"{part}-{range_config['seeds']}" if part.startswith(("sample", "evaluate")) else part] = artifact
    for name, path in paths.items():
        folder.link(name, path)
    costs = results.costs(paths)
    manifest = {
        "verb": verb,
        "key": key,
        "command": command,
        "seeds": config["seeds"],
        "artifacts": {name: path.name for name, path in paths.items()},
        "stages": costs,
        "environment": environment(),
        "finished": now(),
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_mb": max((c["peak_memory_mb"] for c in costs.values()), default=0.0),
    }
    folder.write_json("manifest.json", manifest)
    summary: dict[str, Any] = {"run": str(folder.path), "artifacts": {n: str(p) for n, p in paths.items()}}
    if verb == "export":
        target = deliver(folder.path, paths["export"], command, Path(config["runtime"]["outputs"]))
        return {**summary, "exported": str(target)}
    if verb in ("sample", "evaluate") and has_base(config):
        results.write_grid(folder.path / "samples.png", config, paths)
    if verb != "evaluate":
        return summary
    metrics = as_metrics(results.evaluation(config, paths, command))
    folder.write_json("metrics.json", metrics)
    if cell is not None:
        results.write_cell(cell, metrics, manifest)
    return {**metrics, "run": str(folder.path), **({} if cell is None else {"cell": str(cell)})}
