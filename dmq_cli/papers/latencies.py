"""Latencies of a paper's rows: each is measured by a `dmq benchmark` of its own, whose record is a cell of the table.

The first of a benchmark's subjects is what the row's speed is compared with, and what a row of full precision shows; the last is what
the row is about. A claim of the table's YAML file has `latency` or `bytes`, {subject, over, least or most, batch}: the subject is at
least so many times as fast as the one that it is held against, or takes at most so many times its bytes; without `batch` at every one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.papers.cells import configured, fits
from dmq_cli.papers.claims import EVEN, FAILS, HOLDS, Verdict, summarised
from dmq_cli.papers.transcript import PaperTable, Row
from dmq_cli.report.benchmark import machine
from dmq_cli.results.benchmark import Benchmark, benchmarks
from dmq_cli.results.record import Number

NOTE = (
    "Times are of all network calls of a batch, the median of one call times their number, measured by turns in one run for each row;"
    " ranges and tables are fitted to noise, which takes as long."
)


def measuring(table: PaperTable, row: Row) -> Row | None:
    """The row whose benchmark measures a row: itself or, of full precision, the next quantized one."""
    rows = table.rows[table.rows.index(row) :]
    return next((candidate for candidate in rows if candidate.part == row.part and not candidate.full), None)


def benchmark_of(folder: Path, words: list[str]) -> Benchmark | None:
    """Find the benchmark among a table's cells that these words make; None if there is none. Raises ConfigError for two of them."""
    row_config = configured(words)
    matching = {place: measured for place, measured in benchmarks(folder) if _fits(row_config, measured.config)}
    if len(matching) > 1:
        raise ConfigError(f"{' and '.join(map(str, matching))} are cells of the same row; remove the older one.")
    return next(iter(matching.values()), None)


def _fits(row_config: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    return row_config["benchmark"] == recorded["benchmark"] and fits(row_config, recorded)


def shown(measured: Benchmark, row: Row, column: str) -> str:
    """A row's latency in a column: latency.seconds, or latency.ratio to the first subject."""
    first, *_, last = [*measured.subjects, *measured.subjects]
    subject, batch = (first if row.full else last), measured.batches[0]
    kind = "simulated" if measured.subjects[subject]["simulated"] else "real"
    if column == "latency.seconds":
        return f"{measured.seconds(subject, batch):.3g} ({kind})"
    return "1" if subject == first else f"{measured.ratio(subject, first, batch).value:.2f} ({kind})"


def described(measured: Benchmark) -> str:
    """What was measured, and on what."""
    content = measured.content
    random = " with random weights" if content["weights"] == "random" else ""
    shape = "x".join(map(str, content["sample_shape"]))
    halves = " of both halves" if content["estimates"] > 1 else ""
    return f"{content['model']}{random}, samples of {shape}, {content['calls']} calls{halves}; {machine(measured)}"


def verdict(claim: Mapping[str, Any], measured: Iterable[Benchmark]) -> Verdict:
    """Judge a claim by all benchmarks that have both of its subjects."""
    comparisons: dict[str, list[str]] = {}
    for state, numbers in (outcome for benchmark in measured for outcome in _compared(claim, benchmark)):
        comparisons.setdefault(state, []).append(numbers)
    return Verdict(claim["says"], *summarised(comparisons)) if comparisons else Verdict(claim["says"], "not measured")


def _compared(claim: Mapping[str, Any], benchmark: Benchmark) -> Iterator[tuple[str, str]]:
    kind = "latency" if "latency" in claim else "bytes"
    rule = claim[kind]
    subject, over = rule["subject"], rule["over"]
    if not {subject, over} <= {*benchmark.subjects}:
        return
    if kind == "bytes":
        times = benchmark.subjects[subject]["bytes"] / benchmark.subjects[over]["bytes"]
        state = HOLDS if times <= rule["most"] else FAILS
        yield state, f"{subject} over {over} ({100 * (times - 1):+.3f} %)"
        return
    for batch in benchmark.batches:
        if rule.get("batch", batch) == batch:
            number = benchmark.ratio(subject, over, batch)
            low, high = number.interval or (number.value, number.value)
            yield (
                _state(number, rule["least"]),
                f"{subject} over {over} at batch {batch} ({number.value:.4g}, {low:.4g} to {high:.4g})",
            )


def _state(number: Number, least: float) -> str:
    low, high = number.interval or (number.value, number.value)
    return HOLDS if low >= least else FAILS if high < least else EVEN
