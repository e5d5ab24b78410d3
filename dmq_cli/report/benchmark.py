"""Format a benchmark for the terminal: a line for each subject and batch size, with what it is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from dmq_cli.results.benchmark import Benchmark
from dmq_cli.results.naming import with_overrides

BASES = {"eager": "eager f32", "openvino": "OpenVINO f32"}
"""Subjects that others are compared with, and their headings."""
_HEADS = ["subject", "batch", "p50, ms", "p95, ms", "images/s", "peak, MiB", "on disk, MB", "latency"]


def benchmark_text(measured: Benchmark, place: str) -> str:
    """Format a benchmark. place: its folder."""
    bases = {name: title for name, title in BASES.items() if name in measured.subjects}
    rows = [[*_HEADS, *(f"x {title}" for title in bases.values())], *_rows(measured, list(bases))]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  " + "  ".join(_padded(row, widths)) for row in rows]
    return "\n".join([_head(measured), *lines, _note(measured), f"  run: {place}"])


def _head(measured: Benchmark) -> str:
    content = measured.content
    random = " (random weights)" if content["weights"] == "random" else ""
    name = with_overrides(f"{content['model']}{random} {content['method']} {content['bits']}", content["overrides"])
    shape = "x".join(map(str, content["sample_shape"]))
    return f"{name}, one network call on samples of {shape}; {machine(measured)}"


def machine(measured: Benchmark) -> str:
    """What the latency was measured on: processor, its instruction set, threads."""
    where = measured.content["machine"]
    return f"{where['cpu']}, {where['instruction_set']}, {where['threads']} threads"


def _rows(measured: Benchmark, bases: list[str]) -> Iterator[list[str]]:
    for batch in measured.batches:
        for name, subject in measured.subjects.items():
            latency = measured.latency(name, batch)
            ratios = [_ratio(measured, name, base, batch) for base in bases]
            numbers = [
                f"{1000 * latency['p50']:.2f}",
                f"{1000 * latency['p95']:.2f}",
                f"{latency['images_per_second']:.1f}",
            ]
            memory = [f"{subject['peak_mib']:.0f}", f"{subject['bytes'] / 1e6:.2f}"]
            yield [name, str(batch), *numbers, *memory, "simulated" if subject["simulated"] else "real", *ratios]


def _ratio(measured: Benchmark, name: str, base: str, batch: int) -> str:
    if name == base:
        return "1"
    number = measured.ratio(name, base, batch)
    low, high = number.interval or (number.value, number.value)
    return f"{number.value:.2f} ({low:.2f} to {high:.2f})"


def _padded(row: list[str], widths: list[int]) -> Iterator[str]:
    for number, (text, width) in enumerate(zip(row, widths, strict=True)):
        yield text.ljust(width) if number == 0 else text.rjust(width)


def _note(measured: Benchmark) -> str:
    fitted = measured.config["benchmark"]["fitted"] == "noise"
    return (
        "  p50 and p95 over all timed calls; ratios are medians over rounds in which every subject had a turn, in brackets 95 % intervals."
        + ("\n  Ranges and tables were fitted to noise, which takes as long as those of a run." if fitted else "")
    )
