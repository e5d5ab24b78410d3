"""What a run leaves for people and tables: metrics.json, the grid of samples, the cell of a table."""

from __future__ import annotations

import contextlib
import logging
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dmq_cli.diagnose import stored_bytes
from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.metrics import difference_interval
from dmq_cli.models import is_random
from dmq_cli.printing import SafeFormatter
from dmq_cli.results.images import grid, load_images
from dmq_cli.results.naming import few, with_overrides
from dmq_cli.results.record import INFLUENCE
from dmq_cli.sampling import parse_ranges, show
from dmq_cli.store import digest, hold_json, read_json, write_json
from dmq_cli.store.files import aside
from dmq_cli.store.recorded import check_recorded, read_object
from dmq_cli.store.tensors import load_tensors

Paths = Mapping[str, Path]
_log = logging.getLogger("dmq")
_OVER = {"over_fp": "over_fp"}
_OWN = {"quantized": "intervals", "paired": "paired_intervals"}  # what numbers.json calls them


def title(config: Mapping[str, Any]) -> str:
    """model, method and bits, as people call this run, and the overrides that act."""
    weights = " (random weights)" if is_random(config["model"]) else ""
    name = f"{config['model']['name']}{weights} {config['method']['name']} {config['bits']['name']}"
    return with_overrides(name, config.get("overrides", []))


def metrics(config: Mapping[str, Any], paths: Paths, command: str) -> dict[str, Any]:
    """metrics.json: protocol, counts, the numbers of both twins with mean and deviation over the seed ranges.

    over_fp: how far each distance is above that of the twin from the same noise. intervals has 95 % intervals of `fp`,
    `quantized`, `paired` and `over_fp`, each where it was measured on exactly one range.
    fp_seeds is there where the full-precision twin was measured on ranges of its own, cost unless the artifact of
    calibrate was made before costs were counted.
    """
    ranges = [show(seeds) for seeds in parse_ranges(config["seeds"])]
    own = config.get("fp_seeds")
    fp_ranges = ranges if own is None else [show(seeds) for seeds in parse_ranges(own)]
    full = [read_json(paths[f"evaluate_fp-{r}"] / "numbers.json") for r in fp_ranges]
    quantized = [read_json(paths[f"evaluate-{r}"] / "numbers.json") for r in ranges]
    over, within = zip(*(_over_full(paths[f"evaluate-{r}"], paths[f"evaluate_fp-{r}"]) for r in ranges), strict=True)
    return {
        "protocol": quantized[0]["protocol"],
        "num_images": quantized[0]["protocol"]["num_images"],
        "seeds": ranges,
        **({} if own is None else {"fp_seeds": fp_ranges}),
        "fp": spread_over([n["numbers"] for n in full]),
        "quantized": spread_over([n["numbers"] for n in quantized]),
        "paired": spread_over([n["paired"] for n in quantized]),
        "over_fp": spread_over(list(over)),
        "intervals": {
            **_intervals(full, {"fp": "intervals"}),
            **_intervals(quantized, _OWN),
            **_intervals(within, _OVER),
        },
        "method": config["method"]["name"],
        "bits": config["bits"]["name"],
        "overrides": config.get("overrides", []),
        "model": config["model"]["name"],
        **({"weights": "random"} if is_random(config["model"]) else {}),
        "cite": config["method"]["cite"],
        "policy": read_json(paths["calibrate"] / "policy.json"),
        **_cost(paths),
        "config": dict(config),
        "artifacts": {name: path.name for name, path in paths.items()},
        "seconds": {name: cost["seconds"] for name, cost in costs(paths).items()},
        "command": command,
    }


def _intervals(rows: Sequence[Mapping[str, Any]], names: Mapping[str, str]) -> dict[str, Any]:
    return {side: rows[0][kept] for side, kept in names.items()} if len(rows) == 1 else {}


def _over_full(own: Path, full: Path) -> tuple[dict[str, float], dict[str, Any]]:
    """Differences of the distances of one range, and their intervals, from what the two evaluations of it left."""
    ours, theirs = (read_json(folder / "numbers.json")["numbers"] for folder in (own, full))
    mine, its = (load_tensors(folder / INFLUENCE) for folder in (own, full))
    over = {key: ours[key] - theirs[key] for key in its}
    return over, {"over_fp": {key: difference_interval(over[key], mine[key], its[key]) for key in over}}


def _cost(paths: Paths) -> dict[str, Any]:
    file = paths["calibrate"] / "cost.json"
    if not file.is_file():
        return {}
    counted = read_json(file)
    stored = (paths["reconstruct"] / "quantizers.safetensors", paths["correct"] / "tables.safetensors")
    size = counted["weight_bytes"] + counted["other_bytes"] + sum(stored_bytes(load_tensors(one)) for one in stored)
    kept = {key: counted[key] for key in ("macs", "bops", "bops_fp", "size_bytes_fp", "deployable")}
    return {"cost": {**kept, "size_bytes": size}}


def spread_over(rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Mean of every number over the seed ranges; with several, also `<name>_std` (sample deviation) and `<name>_each`."""
    found: dict[str, Any] = {}
    for name in rows[0]:
        values = [float(row[name]) for row in rows]
        found[name] = statistics.fmean(values)
        if len(values) > 1:
            found[f"{name}_over_seeds"] = {"std": statistics.stdev(values), "each": values}
    return found


def costs(paths: Paths) -> dict[str, dict[str, float]]:
    """Wall time and peak memory of every artifact, as it was when it was made."""
    manifests = {name: read_json(path / "manifest.json") for name, path in paths.items()}
    return {name: {k: m[k] for k in ("seconds", "peak_memory_mb")} for name, m in manifests.items()}


def write_grid(file: Path, config: Mapping[str, Any], paths: Paths) -> None:
    """samples.png: the first images of the full-precision and of the quantized network from the same noise."""
    first = show(parse_ranges(config["seeds"])[0])
    label = with_overrides(f"{config['method']['name']} {config['bits']['name']}", few(config.get("overrides", [])))
    rows = {"fp": load_images(paths[f"sample_fp-{first}"]), label: load_images(paths[f"sample-{first}"])}
    with aside(file) as scratch:
        grid(rows).save(scratch, format="PNG")


def cell_folder(config: Mapping[str, Any], key: str) -> Path | None:
    """Where this run's cell of the table lies, if the run belongs to a table."""
    name = config["table"]["name"] if config.get("table") else None
    if name is None or config["stage"] != "evaluate":
        return None
    label = "-".join((config["model"]["name"], config["method"]["name"], config["bits"]["name"], key[:8]))
    return Path(config["runtime"]["outputs"]) / "tables" / str(name) / label


def write_cell(cell: Path, found: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Keep the numbers and their proof where they are committed; metrics.json comes last and marks the cell finished."""
    cell.mkdir(parents=True, exist_ok=True)
    write_json(cell / "manifest.json", dict(manifest))
    write_json(cell / "metrics.json", {**found, "config_sha256": digest(found["config"])})


class _RunLog(logging.FileHandler):
    """run.log; a disk that has no room for a line of it is told of by the stage that needs room, not by a traceback here."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing."""


def finished(cell: Path, key: str) -> dict[str, Any] | None:
    """metrics.json of a finished cell; None for one that is not finished, or that was altered, which is said."""
    if not hold_json(cell, "metrics.json", "manifest.json"):
        return None
    metrics, manifest = read_object(cell / "metrics.json"), read_object(cell / "manifest.json")
    try:
        check_recorded(cell, metrics, manifest)
    except ArtifactCorruptError as error:
        _log.warning("%s", error)
        return None
    return metrics if manifest.get("key") == key else None


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
