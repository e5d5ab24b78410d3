"""An evaluation's numbers as typed values, and metrics.json, which holds them. Nothing else reads or writes that file.

metrics.json of schema 1 has the numbers of four sides: `fp` and `quantized`, full-precision and quantized images against the
reference; `paired`, one against the other; `over_fp`, the difference quantized - fp of each distance from the same noise. Over several
seed ranges a number is the mean, and `<name>_over_seeds` has the values and their sample deviation; for one range `intervals` has
95 % intervals. Files without a schema are older; `_migrated` renames and fills in their entries.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.results.acting import from_command
from dmq_cli.results.naming import bits_of
from dmq_cli.store.recorded import MANIFEST, METRICS, check_recorded, read_object

INFLUENCE = "influence.safetensors"
"""The influence (N,) of every image on each distance, in the order of the seeds; on a mean over images, its own value."""
ASKED = "asked.json"
"""The class or prompt of each image, for a conditional model."""
SCHEMA = 1
SIDES = ("fp", "quantized", "paired", "over_fp")
_OVER_SEEDS = "_over_seeds"


@dataclass(frozen=True)
class Number:
    """A measured number. value: of one seed range, or the mean over several; seeds: the value on each, where there are several.

    interval: 95 %, low and high, of one range; unit: "" or such as dB.
    """

    value: float
    interval: tuple[float, float] | None = None
    seeds: tuple[float, ...] = ()
    unit: str = ""

    @property
    def deviation(self) -> float | None:
        """The sample standard deviation over seed ranges; None for a single one."""
        return statistics.stdev(self.seeds) if len(self.seeds) > 1 else None

    @property
    def half(self) -> float | None:
        """Half the width of the 95 % interval, over several ranges by Student's t of their mean; None where unknown."""
        if len(self.seeds) > 1:
            return _half_of_mean(statistics.stdev(self.seeds), len(self.seeds))
        return None if self.interval is None else (self.interval[1] - self.interval[0]) / 2


Numbers = Mapping[str, Number]
UNITS = {"psnr": "dB"}


@dataclass(frozen=True)
class NetworkCost:
    """Cost of one network call and size of the weights: multiply-accumulates, bit operations, bytes; `_fp`: in full precision."""

    macs: int
    bops: int
    bops_fp: int
    size_bytes: int
    size_bytes_fp: int
    deployable: bool = True


@dataclass(frozen=True)
class Evaluation:
    """One evaluation. protocol: its record, with name, hash and columns; seeds, fp_seeds: ranges such as 0-1999, of both twins.

    fp, quantized, paired, over_fp: numbers by name. random: of random weights, whose numbers mean nothing. overrides: those that
    distinguish it from the plain run of its model, method, bits and budget. policy: width by site; artifacts: key by stage;
    seconds: by stage.
    """

    method: str
    bits: str
    model: str
    protocol: Mapping[str, Any]
    seeds: tuple[str, ...]
    fp_seeds: tuple[str, ...]
    fp: Numbers
    quantized: Numbers
    paired: Numbers
    over_fp: Numbers
    config: Mapping[str, Any]
    artifacts: Mapping[str, str]
    overrides: tuple[str, ...] = ()
    random: bool = False
    cite: str = ""
    command: str = ""
    policy: Mapping[str, int] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    cost: NetworkCost | None = None

    @property
    def num_images(self) -> int:
        """Images in each seed range."""
        count: int = self.protocol["num_images"]
        return count

    @property
    def headline(self) -> tuple[str, str] | None:
        """Side and name of the number that runs are ranked by: the protocol's first column that was measured, else the first
        comparison with full precision; None where nothing was measured.
        """
        columns = [("quantized", key) for key in self.protocol["columns"] if key in self.quantized]
        further = [(side, key) for side in ("quantized", "paired") for key in getattr(self, side)]
        return next(iter([*columns, *further]), None)

    def number(self, side: str, key: str) -> Number | None:
        """A number by its side (fp, quantized, paired, over_fp) and name; None where it was not measured."""
        numbers: Numbers = getattr(self, side) if side in SIDES else {}
        return numbers.get(key)


def over_ranges(
    rows: Sequence[Mapping[str, float]], intervals: Mapping[str, Sequence[float]] | None = None
) -> dict[str, Number]:
    """Combine the numbers of seed ranges, one row per range. intervals: 95 % of a single range, where they are known."""
    known_intervals = intervals or {} if len(rows) == 1 else {}
    return {
        name: Number(
            statistics.fmean(float(row[name]) for row in rows),
            (float(known_intervals[name][0]), float(known_intervals[name][1])) if name in known_intervals else None,
            tuple(float(row[name]) for row in rows) if len(rows) > 1 else (),
            UNITS.get(name, ""),
        )
        for name in rows[0]
    }  # fmt: skip


def flat(numbers: Numbers) -> dict[str, Any]:
    """Write numbers as in metrics.json: {"fd": 0.5, "fd_over_seeds": {"std": 0.1, "each": [0.4, 0.6]}}."""
    plain: dict[str, Any] = {}
    for name, number in numbers.items():
        plain[name] = number.value
        if number.seeds:
            plain[name + _OVER_SEEDS] = {"std": number.deviation, "each": list(number.seeds)}
    return plain


def as_metrics(evaluation: Evaluation) -> dict[str, Any]:
    """Make the content of metrics.json, plain values."""
    sides = {side: getattr(evaluation, side) for side in SIDES}
    intervals = {side: _intervals(numbers) for side, numbers in sides.items()}
    return {
        "schema": SCHEMA,
        "protocol": dict(evaluation.protocol),
        "num_images": evaluation.num_images,
        "seeds": list(evaluation.seeds),
        "fp_seeds": list(evaluation.fp_seeds),
        **{side: flat(numbers) for side, numbers in sides.items()},
        "intervals": {side: ends for side, ends in intervals.items() if ends},
        "method": evaluation.method,
        "bits": evaluation.bits,
        "overrides": list(evaluation.overrides),
        "model": evaluation.model,
        "weights": "random" if evaluation.random else "trained",
        "cite": evaluation.cite,
        "policy": dict(evaluation.policy),
        "cost": None if evaluation.cost is None else vars(evaluation.cost),
        "config": dict(evaluation.config),
        "artifacts": dict(evaluation.artifacts),
        "seconds": dict(evaluation.seconds),
        "command": evaluation.command,
    }


def as_evaluation(metrics: Mapping[str, Any], where: Path | str = METRICS) -> Evaluation:
    """Read an evaluation from the content of a metrics.json of any schema. where: the file, for the ArtifactCorruptError."""
    _check_shape(metrics, where)
    now = _migrated(metrics)
    intervals = now["intervals"]
    sides = {side: dict(_numbers(now[side], intervals.get(side, {}))) for side in SIDES}
    return Evaluation(
        method=now["method"],
        bits=now["bits"],
        model=now["model"],
        protocol=now["protocol"],
        seeds=tuple(now["seeds"]),
        fp_seeds=tuple(now["fp_seeds"]),
        **sides,
        config=now["config"],
        artifacts=now["artifacts"],
        overrides=tuple(now["overrides"]),
        random=now["weights"] == "random",
        cite=now["cite"],
        command=now["command"],
        policy=now["policy"],
        seconds=now["seconds"],
        cost=None if now["cost"] is None else NetworkCost(**now["cost"]),
    )


def read_evaluation(folder: Path) -> tuple[Evaluation, dict[str, Any]]:
    """Read the evaluation and the manifest of a run or a cell, and check that they agree. Raises ArtifactCorruptError."""
    metrics, manifest = read_object(folder / METRICS), read_object(folder / MANIFEST)
    evaluation = as_evaluation(metrics, folder / METRICS)
    check_recorded(folder, metrics, manifest)
    return evaluation, manifest


def metrics_files(folder: Path) -> list[Path]:
    """metrics.json of every finished cell of a table's folder, sorted."""
    return sorted(folder.glob(f"*/{METRICS}"))


def backed_evaluations(folder: Path) -> Iterator[tuple[Path, Evaluation]]:
    """Yield the finished cells of a table's folder whose manifests agree with them, each with its own folder.

    A cell counts if its manifest has the key that its folder is named by and the same artifacts, and if its configuration is the
    one that was hashed.
    """
    for file in metrics_files(folder):
        if (file.parent / MANIFEST).is_file():
            with suppress(ArtifactCorruptError):
                yield file.parent, read_evaluation(file.parent)[0]


_SHAPE: dict[str, type] = {
    "method": str, "bits": str, "model": str, "protocol": dict, "config": dict, "artifacts": dict, "seeds": list,
    "fp": dict, "quantized": dict,
}  # fmt: skip
_SCHEMA_0: dict[str, Any] = {
    "paired": {},
    "over_fp": {},
    "intervals": {},
    "weights": "trained",
    "cite": "",
    "policy": {},
    "seconds": {},
    "cost": None,
}
_SCHEMA_0 |= {"command": ""}


def _migrated(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Bring the content of a file of any schema to this one."""
    if metrics.get("schema") == SCHEMA:
        return dict(metrics)
    later = {"fp_seeds": metrics["seeds"], "overrides": from_command(str(metrics.get("command", "")))}
    return {**_SCHEMA_0, **later, **metrics, "bits": bits_of(metrics)}


def _check_shape(metrics: Mapping[str, Any], where: Path | str) -> None:
    """Raise ArtifactCorruptError for another schema, and for metrics that lack an entry or have one of another kind."""
    if metrics.get("schema", SCHEMA) != SCHEMA:
        raise ArtifactCorruptError(
            f"{where} has schema {metrics['schema']}, but this version of dmq reads {SCHEMA}; use the version that wrote it."
        )
    lacking = [key for key in _SHAPE if key not in metrics]
    if lacking:
        raise ArtifactCorruptError(
            f"{where} has no {', '.join(lacking)}, so it is no result of dmq evaluate; run that command again."
        )
    wrong = [key for key, kind in _SHAPE.items() if not isinstance(metrics[key], kind)]
    if wrong:
        raise ArtifactCorruptError(
            f"{where} was to be read as a result of dmq evaluate, but its {', '.join(wrong)} is of another kind;"
            " run that command again."
        )


def _numbers(side: Mapping[str, Any], intervals: Mapping[str, Any]) -> Iterator[tuple[str, Number]]:
    for name, value in side.items():
        if name.endswith(_OVER_SEEDS):
            continue
        if type(value) not in (int, float):
            raise TypeError(f"{name} is no number")
        ends = intervals.get(name)
        values = tuple(side.get(name + _OVER_SEEDS, {}).get("each", ()))
        yield name, Number(float(value), None if ends is None else (ends[0], ends[1]), values, UNITS.get(name, ""))


def _intervals(numbers: Numbers) -> dict[str, list[float]]:
    return {name: list(number.interval) for name, number in numbers.items() if number.interval is not None}


def _half_of_mean(deviation: float, count: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, 0.975)) * deviation / math.sqrt(count)
