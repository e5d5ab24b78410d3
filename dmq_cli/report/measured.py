"""The measured latency of a page's runs, where a benchmark of the same network was made."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from dmq_cli.report.benchmark import BASES, machine
from dmq_cli.results.benchmark import Benchmark, benchmarks, same_network
from dmq_cli.results.runs import Result

_RUN = ("ours", "simulated")  # subjects that are the network of the configuration itself


@dataclass(frozen=True)
class MeasuredRow:
    """One subject of a benchmark at one batch size. ratio: to full precision in the same benchmark; kind: real or simulated."""

    label: str
    subject: str
    batch: int
    milliseconds: str
    images: str
    ratio: str
    size: str
    kind: str
    machine: str


def measured_costs(runs: Mapping[str, Result]) -> list[MeasuredRow]:
    """Make a row for each benchmark, subject and batch size of the runs' networks; nothing where none was measured."""
    known: dict[Path, list[Benchmark]] = {}
    rows: list[MeasuredRow] = []
    for label, result in runs.items():
        outputs = result.folder.resolve().parents[2]
        if outputs not in known:
            known[outputs] = [measured for folder in _folders(outputs) for _, measured in benchmarks(folder)]
        rows += [row for measured in known[outputs] for row in _rows(label, result, measured)]
    return list(dict.fromkeys(rows))


def _folders(outputs: Path) -> list[Path]:
    return [outputs / "runs" / "benchmark", *sorted((outputs / "tables").glob("*"))]


def _rows(label: str, result: Result, measured: Benchmark) -> Iterator[MeasuredRow]:
    if not same_network(result.config, measured.config):
        return
    for subject in (name for name in _RUN if name in measured.subjects):
        content = measured.subjects[subject]
        for batch in measured.batches:
            latency = measured.latency(subject, batch)
            yield MeasuredRow(
                label, subject, batch, f"{1000 * latency['p50']:.2f}", f"{latency['images_per_second']:.1f}",
                _ratio(measured, subject, batch), f"{content['bytes'] / 1e6:.2f}",
                "simulated" if content["simulated"] else "real", machine(measured),
            )  # fmt: skip


def _ratio(measured: Benchmark, subject: str, batch: int) -> str:
    ratios = [
        f"{measured.ratio(subject, base, batch).value:.2f} \u00d7 {title}"
        for base, title in BASES.items()
        if base in measured.subjects
    ]
    return ", ".join(ratios)
