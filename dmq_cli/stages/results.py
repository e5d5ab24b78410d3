"""Write the results of a run: metrics.json, the grid of samples, the cell of a table."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dmq_cli.deploy.index import read_index
from dmq_cli.diagnose import stored_bytes
from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.metrics import difference_interval
from dmq_cli.models import is_random
from dmq_cli.printing import SafeFormatter
from dmq_cli.results.images import are_pictures, grid, load_images
from dmq_cli.results.naming import few, with_overrides
from dmq_cli.results.record import INFLUENCE, Evaluation, NetworkCost, as_evaluation, as_metrics, over_ranges
from dmq_cli.sampling import parse_ranges, show
from dmq_cli.store import digest, hold_json, read_json, write_json
from dmq_cli.store.files import aside
from dmq_cli.store.recorded import MANIFEST, METRICS, check_recorded, read_object
from dmq_cli.store.tensors import load_tensors

Paths = Mapping[str, Path]
_log = logging.getLogger("dmq")


def title(config: Mapping[str, Any]) -> str:
    """Name a run for people: model, method, bits, and the overrides that have an effect."""
    weights = " (random weights)" if is_random(config["model"]) else ""
    name = f"{config['model']['name']}{weights} {config['method']['name']} {config['bits']['name']}"
    return with_overrides(name, config.get("overrides", []))


def labels(config: Mapping[str, Any]) -> dict[str, Any]:
    """What tells a run from others where it has no numbers: model, method, bits and the whole configuration."""
    return {**{name: config[name]["name"] for name in ("model", "method", "bits")}, "config": dict(config)}


def evaluation(config: Mapping[str, Any], paths: Paths, command: str) -> Evaluation:
    """The numbers of both twins over the seed ranges, from the artifacts of the stages that measured them.

    The full-precision twin may have been measured on ranges of its own. paths: folder by stage and its seeds.
    """
    ranges = [show(seeds) for seeds in parse_ranges(config["seeds"])]
    fp_ranges = [show(seeds) for seeds in parse_ranges(config.get("fp_seeds") or config["seeds"])]
    full = [read_json(paths[f"evaluate_fp-{r}"] / "numbers.json") for r in fp_ranges]
    quantized = [read_json(paths[f"evaluate-{r}"] / "numbers.json") for r in ranges]
    policy, cost = _network(config, paths)
    over, within = zip(*(_over_full(paths[f"evaluate-{r}"], paths[f"evaluate_fp-{r}"]) for r in ranges), strict=True)
    return Evaluation(
        method=config["method"]["name"],
        bits=config["bits"]["name"],
        model=config["model"]["name"],
        protocol=quantized[0]["protocol"],
        seeds=tuple(ranges),
        fp_seeds=tuple(fp_ranges),
        fp=over_ranges([n["numbers"] for n in full], full[0]["intervals"]),
        quantized=over_ranges([n["numbers"] for n in quantized], quantized[0]["intervals"]),
        paired=over_ranges([n["paired"] for n in quantized], quantized[0]["paired_intervals"]),
        over_fp=over_ranges(list(over), within[0]),
        config=config,
        artifacts={name: path.name for name, path in paths.items()},
        overrides=tuple(config.get("overrides", [])),
        random=is_random(config["model"]),
        cite=config["method"]["cite"],
        command=command,
        policy=policy,
        seconds={name: cost["seconds"] for name, cost in costs(paths).items()},
        cost=cost,
    )


def _over_full(quantized: Path, full: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Differences quantized - full precision of one range's distances, and their intervals, from its two evaluations."""
    quantized_numbers, full_numbers = (read_json(folder / "numbers.json")["numbers"] for folder in (quantized, full))
    quantized_influences, full_influences = (load_tensors(folder / INFLUENCE) for folder in (quantized, full))
    over = {key: quantized_numbers[key] - full_numbers[key] for key in full_influences}
    return over, {key: difference_interval(over[key], quantized_influences[key], full_influences[key]) for key in over}


def _network(config: Mapping[str, Any], paths: Paths) -> tuple[Any, NetworkCost]:
    """Which layers differ from the rest, and the cost, as the stages found them or an exported folder records them."""
    if "exported" in config:
        about = read_index(Path(config["exported"]["path"]))["about"]
        return about["policy"], NetworkCost(**about["cost"])
    return read_json(paths["calibrate"] / "policy.json"), _cost(paths)


def _cost(paths: Paths) -> NetworkCost:
    counted = read_json(paths["calibrate"] / "cost.json")
    stored = (paths["reconstruct"] / "quantizers.safetensors", paths["correct"] / "tables.safetensors")
    size = counted["weight_bytes"] + counted["other_bytes"] + sum(stored_bytes(load_tensors(file)) for file in stored)
    counts = {key: counted[key] for key in ("macs", "bops", "bops_fp", "size_bytes_fp", "deployable")}
    return NetworkCost(**counts, size_bytes=size)


def costs(paths: Paths) -> dict[str, dict[str, float]]:
    """Time in seconds, of one process, and peak memory in MB of every artifact, recorded when it was made."""
    manifests = {name: read_json(path / MANIFEST) for name, path in paths.items()}
    return {
        name: {"seconds": m["seconds"] * m.get("workers", 1), "peak_memory_mb": m["peak_memory_mb"]}
        for name, m in manifests.items()
    }


def write_grid(file: Path, config: Mapping[str, Any], paths: Paths) -> None:
    """Write samples.png: the first images of the full-precision and of the quantized network from the same noise; no file where samples
    are no images."""
    first = show(parse_ranges(config["seeds"])[0])
    label = with_overrides(f"{config['method']['name']} {config['bits']['name']}", few(config.get("overrides", [])))
    rows = {"fp": load_images(paths[f"sample_fp-{first}"]), label: load_images(paths[f"sample-{first}"])}
    if not are_pictures(rows["fp"]):
        return
    with aside(file) as scratch:
        grid(rows).save(scratch, format="PNG")


def cell_folder(config: Mapping[str, Any], key: str) -> Path | None:
    """The folder of this run's cell in the table; None if the run belongs to no table."""
    name = config["table"]["name"] if config.get("table") else None
    if name is None or config["stage"] != "evaluate":
        return None
    label = "-".join((config["model"]["name"], config["method"]["name"], config["bits"]["name"], key[:8]))
    return Path(config["runtime"]["outputs"]) / "tables" / str(name) / label


def write_cell(cell: Path, metrics: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write manifest and metrics into the cell's folder, which is committed; metrics.json is last and marks it finished."""
    cell.mkdir(parents=True, exist_ok=True)
    write_json(cell / MANIFEST, dict(manifest))
    write_json(cell / METRICS, {**metrics, "config_sha256": digest(metrics["config"])})


class _RunLog(logging.FileHandler):
    """Handler of run.log that is silent on a full disk; the stage that needs the room raises the error."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing."""


def finished(cell: Path, key: str) -> dict[str, Any] | None:
    """Read metrics.json of a finished cell; None for an unfinished one, and, with a warning, for an altered one."""
    if not hold_json(cell, METRICS, MANIFEST):
        return None
    metrics, manifest = read_object(cell / METRICS), read_object(cell / MANIFEST)
    try:
        check_recorded(cell, metrics, manifest)
    except ArtifactCorruptError as error:
        _log.warning("%s", error)
        return None
    return as_metrics(as_evaluation(metrics, cell / METRICS)) if manifest.get("key") == key else None


@contextlib.contextmanager
def logging_to(file: Path) -> Iterator[None]:
    """Also write what dmq logs to this file."""
    handler = _RunLog(file, encoding="utf-8")
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("dmq")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
