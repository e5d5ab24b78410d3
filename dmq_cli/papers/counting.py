"""Count size and bit operations of a table's rows from shapes alone, once; kept by the command that counts them again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dmq_cli.papers.cells import QUANTIZED, configured
from dmq_cli.papers.runnable import setting
from dmq_cli.papers.transcript import PaperTable, Row
from dmq_cli.store import digest, read_json, write_json

_COUNTED = (*QUANTIZED, "model", "bits", "layer_bits", "sampler", "cond")
_OF = "of"  # digest of the configuration that an entry was counted from
_KEYS = ("size_bytes", "size_flat_bytes", "size_bytes_fp", "bops", "bops_flat", "bops_fp", "bops_fp_single")
_UNITS = {"cost.size": 1e6, "cost.bops": 1e12}  # MB and tera
_ROW = {"cost.size": ("size_bytes", "size_flat_bytes"), "cost.bops": ("bops", "bops_flat")}
_FULL = {"cost.size": ("size_bytes_fp", "size_bytes_fp"), "cost.bops": ("bops_fp", "bops_fp_single")}
Costs = Mapping[str, Mapping[str, Any]]
NOTE = (
    "Size in 10^6 bytes and 10^12 bit operations of one network call, counted from shapes; in brackets by the papers' convention:"
    " every parameter at the width of weights, every product at the width of weights and activations (full precision: a MAC"
    " counted once)."
)


def has_costs(table: PaperTable) -> bool:
    """Whether the table has a column of sizes or bit operations."""
    return any(str(column).startswith("cost.") for column in table.columns.values())


def costs(table: PaperTable, scale: str, folder: Path) -> Costs:
    """Count the cost of every row, by the command that counts it; folder/costs.json keeps them, until what the words stand for changes."""
    file = folder / "costs.json"
    stored: dict[str, dict[str, Any]] = read_json(file) if file.is_file() else {}
    needed = {command(table, row, scale): row for row in table.rows if not row.full} if has_costs(table) else {}
    counted = {words: _counted(words, stored.get(words, {})) for words in needed}
    if counted != stored:
        write_json(file, counted)
    return counted


def command(table: PaperTable, row: Row, scale: str) -> str:
    """The words of `dmq cost` that count a row."""
    words = [word for word in setting(table, row, scale) if not word.startswith(("protocol", "benchmark."))]
    return shlex.join(["dmq", "cost", *words])


def cost(table: PaperTable, row: Row, column: str, scale: str, counted: Costs) -> str:
    """Format a row's cost in a column; "" if there is none. column: cost.size or cost.bops.

    The cost of full precision is read from any row of its part.
    """
    rows = [candidate for candidate in table.of(row.part) if not candidate.full] if row.full else [row]
    row_cost = next((counted[c] for candidate in rows if (c := command(table, candidate, scale)) in counted), None)
    keys = (_FULL if row.full else _ROW)[column]
    if row_cost is None or not all(key in row_cost for key in keys):
        return ""
    value, flat = (row_cost[key] / _UNITS[column] for key in keys)
    return f"{_short(value)} ({_short(flat)})"


def _counted(words: str, stored: Mapping[str, Any]) -> Mapping[str, Any]:
    """The stored entry where it was counted from the configuration that the words have today, else a new one."""
    from dmq_cli.stages.costing import cost_of
    from dmq_cli.stages.nodes import versions

    config = configured(_overrides(words))
    of = digest([{section: config.get(section) for section in _COUNTED}, versions(config)])
    if stored.get(_OF) == of:
        return stored
    counts: dict[str, Any] = cost_of(config)
    return {_OF: of, **{key: counts[key] for key in _KEYS if key in counts}}


def _overrides(words: str) -> Sequence[str]:
    return shlex.split(words)[2:]


def _short(value: float) -> str:
    """Two decimals, or three digits of what is smaller than one."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"
