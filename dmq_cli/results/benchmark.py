"""benchmark.json, the record of a measured latency: nothing else reads or writes that file.

    {schema, model, weights, method, bits, sample_shape, calls, estimates, machine, subjects: {name: {about, simulated, bytes,
     peak_mib, batches: {"32": {p50, p95, images_per_second, calls, turns}}}}, config, artifacts, overrides, command}

p50, p95: seconds of one network call on a batch, over all timed calls; images_per_second: of finished images, by p50; turns: the median of every turn, in order, so that
ratios are taken between turns that followed each other. calls: network calls of one trajectory; estimates: of the network for each
(2 with guidance). A latency is real unless its subject simulates integers.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.results.later import without_later
from dmq_cli.results.record import Number
from dmq_cli.store import digest, hold_json, write_json
from dmq_cli.store.recorded import MANIFEST, check_recorded, read_object

BENCHMARK = "benchmark.json"
SCHEMA = 1
_RESAMPLED = 2000
_FORM = ("model", "bits", "transform", "scheme", "policy", "correct")
_NEEDED = ("model", "method", "bits", "weights", "machine", "subjects", "config", "calls", "estimates")


@dataclass(frozen=True)
class Benchmark:
    """The record of a benchmark, see the top of the file."""

    content: Mapping[str, Any]

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration that it was made with."""
        config: Mapping[str, Any] = self.content["config"]
        return config

    @property
    def subjects(self) -> Mapping[str, Mapping[str, Any]]:
        """What was measured of each subject, in the order of their turns."""
        subjects: Mapping[str, Mapping[str, Any]] = self.content["subjects"]
        return subjects

    @property
    def batches(self) -> list[int]:
        """The batch sizes, as they were measured."""
        return [int(batch) for batch in next(iter(self.subjects.values()))["batches"]]

    def latency(self, subject: str, batch: int) -> Mapping[str, Any]:
        """The latency of a subject at a batch size: p50, p95, images_per_second, calls, turns."""
        measured: Mapping[str, Any] = self.subjects[subject]["batches"][str(batch)]
        return measured

    def seconds(self, subject: str, batch: int) -> float:
        """Seconds of all network calls that a batch of images takes, by the median of one."""
        calls: float = self.content["calls"] * self.content["estimates"]
        return calls * float(self.latency(subject, batch)["p50"])

    def ratio(self, subject: str, base: str, batch: int) -> Number:
        """How many times as fast as the base a subject is, with its 95 % interval: the median over rounds of both turns' ratio."""
        return ratio(self.latency(base, batch)["turns"], self.latency(subject, batch)["turns"])


def same_network(config: Mapping[str, Any], measured: Mapping[str, Any]) -> bool:
    """Whether a benchmark's configuration has the network of another one: same model, widths, quantizers and correction.

    What was learned does not count, as it takes no time.
    """
    return all(_form(config, section) == _form(measured, section) for section in _FORM)


def _form(config: Mapping[str, Any], section: str) -> Any:
    values = config.get(section) or {}
    if section == "model":
        return values.get("name"), values.get("sha256")
    if section == "bits":
        return values.get("weight"), values.get("act")
    if section in ("transform", "correct"):
        return values.get("_target_")
    return without_later(values)


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Number:
    """The median of slower / faster over pairs, and a 95 % interval of it by resampling the pairs."""
    ratios = [first / second for first, second in zip(slower, faster, strict=True)]
    draw = random.Random(0)
    medians = sorted(statistics.median(draw.choices(ratios, k=len(ratios))) for _ in range(_RESAMPLED))
    return Number(
        statistics.median(ratios), (medians[round(0.025 * _RESAMPLED)], medians[round(0.975 * _RESAMPLED) - 1])
    )


def summarise(turns: Sequence[Sequence[float]], batch: int, calls: int = 1) -> dict[str, Any]:
    """The latency of a subject at a batch size, from the seconds of its calls, turn by turn. calls: that a batch of images takes."""
    seconds = sorted(second for turn in turns for second in turn)
    return {
        "p50": statistics.median(seconds),
        "p95": percentile(seconds, 0.95),
        "images_per_second": batch / (calls * statistics.median(seconds)),
        "calls": len(seconds),
        "turns": [round(statistics.median(turn), 9) for turn in turns],
    }


def percentile(ordered: Sequence[float], part: float) -> float:
    """The smallest of the ordered values that at least this part (0..1) of them do not exceed."""
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def write_benchmark(folder: Path, content: Mapping[str, Any], manifest: Mapping[str, Any]) -> None:
    """Write a benchmark and its manifest into a folder; the former is last and marks it finished."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, dict(manifest))
    write_json(folder / BENCHMARK, {**content, "config_sha256": digest(content["config"])})


def read_benchmark(folder: Path) -> Benchmark:
    """Read the benchmark of a run or a cell, and check it against its manifest. Raises ArtifactCorruptError."""
    content = read_object(folder / BENCHMARK)
    lacking = [name for name in _NEEDED if name not in content]
    if content.get("schema") != SCHEMA or lacking:
        raise ArtifactCorruptError(
            f"The file {folder / BENCHMARK} was to be read as a benchmark of schema {SCHEMA}, but it has schema"
            f" {content.get('schema')}{' and no ' + lacking[0] if lacking else ''}; measure it again with dmq benchmark."
        )
    check_recorded(folder, content, read_object(folder / MANIFEST))
    return Benchmark(content)


def benchmarks(folder: Path) -> Iterator[tuple[Path, Benchmark]]:
    """Yield the finished benchmarks below a folder that their manifests agree with: runs, or cells of a table."""
    for file in sorted(folder.glob(f"*/{BENCHMARK}")):
        if hold_json(file.parent, BENCHMARK, MANIFEST):
            with suppress(ArtifactCorruptError):
                yield file.parent, read_benchmark(file.parent)
