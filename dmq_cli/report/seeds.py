"""Markdown table of a table's rows that were learned more than once: how far another seed of the learning moves each of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from dmq_cli.errors import ConfigError
from dmq_cli.report.tables import order, read_cells, require_one_protocol
from dmq_cli.results.learned import learning_seed, row_digest
from dmq_cli.results.record import Evaluation
from dmq_cli.results.verdict import difference

_Group = dict[int, Evaluation]  # the cells of one row, by the seed of the learning
_BASE = "qdiffusion"  # what most methods build on
_HEAD = ["bits", "method", "{fd} ↓", "each seed", "less {base}'s", "PSNR to FP ↑"]


def seeds_table(folder: Path, base: str = _BASE) -> str:
    """The Markdown table of the cells below `folder`, one row for each method and width that was learned with several seeds.

    Numbers are the mean and the standard deviation over the seeds of the learning; all rows have the same images. base: the method
    whose number with the same seed is taken off each. Raises ConfigError where no row was learned twice, or cells of several protocols would share a column.
    """
    cells = read_cells(folder)
    rows = _rows(cells)
    if not rows:
        raise ConfigError(
            f"The table {folder.name} has no row that was learned with several seeds in {folder}; fill it with: dmq table {folder.name}"
        )
    require_one_protocol(folder, cells)
    first = cells[0]
    names = {"fd": first.protocol["columns"]["fd"], "base": base}
    bases = {bits: group for (bits, method), group in rows.items() if method == base}
    lines = [[title.format(**names) for title in _HEAD], ["---"] * len(_HEAD)]
    lines += [[bits, method, *_line(group, bases.get(bits, {}))] for (bits, method), group in rows.items()]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"{text}\n\n{_under(first, rows.values())}"


def _rows(cells: Sequence[Evaluation]) -> dict[tuple[str, str], _Group]:
    """Cells grouped by width and method, in the order of tables, as far as several seeds were learned."""
    groups: dict[tuple[str, str], _Group] = {}
    for cell in sorted(cells, key=order):
        if (seed := learning_seed(cell)) is not None and "fd" in cell.quantized:
            group = groups.setdefault((cell.bits, cell.method), {})
            _require_one_row([*group.values(), cell])
            group[seed] = cell
    return {name: group for name, group in groups.items() if len(group) > 1}


def _require_one_row(cells: Sequence[Evaluation]) -> None:
    """Raise ConfigError where cells of one method and width differ in more than the seed of the learning."""
    if len({row_digest(cell.config) for cell in cells}) > 1:
        raise ConfigError(
            f"{cells[-1].method} at {cells[-1].bits} was learned with other settings, too, not with other seeds alone; keep such rows in a table"
            " of their own."
        )


def _line(group: _Group, base: _Group) -> list[str]:
    seeds = sorted(group)
    distances = [group[seed].quantized["fd"].value for seed in seeds]
    ratios = [group[seed].paired["psnr"].value for seed in seeds if "psnr" in group[seed].paired]
    shared = [seed for seed in seeds if seed in base and group is not base]
    less = [difference(group[seed].quantized["fd"].value, base[seed].quantized["fd"].value) for seed in shared]
    ratio = f"{_mean(ratios, 1)} dB" if len(ratios) == len(seeds) else ""
    return [_mean(distances, 2), _each(distances), ", ".join(less), ratio]


def _mean(values: Sequence[float], digits: int) -> str:
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def _each(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.2f}" for value in values)


def _under(cell: Evaluation, rows: Iterable[_Group]) -> str:
    seeds = ", ".join(str(seed) for seed in sorted({seed for group in rows for seed in group}))
    protocol, ranges = cell.protocol, ", ".join(cell.seeds)
    return (
        f"{cell.model}, {cell.config['sampler']['num_inference_steps']} steps, {protocol['num_images']} images, seeds {ranges}; learned with the"
        f" seeds {seeds}: mean ± standard deviation over them; full precision {cell.fp['fd'].value:.2f}; budget {cell.config['budget']['name']};"
        f" protocol {protocol['name']} `{protocol['hash']}`."
    )
