"""How far another seed of the learning moves the difference of two rows, from the tables that learn rows again.

The interval of a row is that of other images of the same network. What is learned, rounding, ranges or weights, would be another
network with another seed, and the difference of two rows another one, too; only rows that were learned again can tell by how much.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from dmq_cli.results.later import without_later
from dmq_cli.results.record import Evaluation, Number, backed_evaluations
from dmq_cli.sampling.seeds import parse_ranges
from dmq_cli.store import digest

TABLES = ("recon_seed", "qat_seed")
"""The tables whose rows differ in the seed of the learning alone."""
LEAST = 3
"""Seeds that are needed for an interval: Student's t of one degree of freedom would let nothing be told apart."""
_SAME = (
    "model", "bits", "calib", "transform", "scheme", "policy", "recon", "correct", "sampler", "calibrated_steps",
    "layer_bits", "numerics", "cond", "backend",
)  # fmt: skip


@dataclass(frozen=True)
class Relearned:
    """Two rows of which at least one learns. difference: first - second over the seeds of the learning that both were learned with, as a
    mean with its 95 % interval; None where these are fewer than LEAST.
    """

    difference: Number | None = None


class Learnings:
    """What is known of other seeds of the learning. tables: the folder outputs/tables."""

    def __init__(self, tables: Path) -> None:
        self._tables = tables

    def __call__(self, first: Evaluation, second: Evaluation, side: str, key: str) -> Relearned | None:
        """The difference first - second of a number over seeds of the learning; None where neither learns.

        A row that does not learn counts with the same number for every seed. side: quantized or paired.
        """
        if learning_seed(first) is None and learning_seed(second) is None:
            return None
        if row_digest(first.config) == row_digest(second.config):
            return Relearned()  # rows that differ in a seed alone have no counterparts
        first_numbers, second_numbers = (self._by_seed(cell, side, key) for cell in (first, second))
        differences = tuple(
            first_numbers[seed] - second_numbers[seed] for seed in sorted(first_numbers.keys() & second_numbers.keys())
        )
        if len(differences) < LEAST:
            return Relearned()
        return Relearned(Number(statistics.fmean(differences), seeds=differences))

    def _by_seed(self, cell: Evaluation, side: str, key: str) -> dict[int, float]:
        """The number of a row by the seed of its learning, on the same images; of one that does not learn, its own for every seed."""
        if learning_seed(cell) is None:
            again = {seed: cell for seeds in self._rows.values() for seed in seeds}
        else:
            again = self._rows.get(row_digest(cell.config), {})
        alike = {seed: other for seed, other in again.items() if _measured(other) == _measured(cell)}
        numbers = {seed: other.number(side, key) for seed, other in alike.items()}
        return {seed: number.value for seed, number in numbers.items() if number is not None}

    @cached_property
    def _rows(self) -> dict[str, dict[int, Evaluation]]:
        rows: dict[str, dict[int, Evaluation]] = {}
        for folder in (self._tables / name for name in TABLES):
            for _, cell in backed_evaluations(folder):
                if (seed := learning_seed(cell)) is not None:
                    rows.setdefault(row_digest(cell.config), {})[seed] = cell
        return rows


def learning_seed(cell: Evaluation) -> int | None:
    """The seed of a cell's reconstruction or training; None where nothing is learned."""
    seed = _seed(cell.config.get("recon", {}))
    return None if seed is None else int(seed)


def _seed(recon: Mapping[str, Any]) -> Any:
    return recon.get("seed", recon.get("settings", {}).get("seed"))


def _measured(cell: Evaluation) -> tuple[Any, ...]:
    """The images of a row and how they are measured."""
    return cell.seeds, cell.protocol["hash"]


def row_digest(config: Mapping[str, Any]) -> str:
    """Hash what a row is, whatever the seed of its learning and which noise its correction is estimated on, but not how much."""
    sections: dict[str, Any] = {name: config.get(name) for name in _SAME}
    recon = {**sections["recon"], "seed": None}
    if "settings" in recon:
        recon["settings"] = {**recon["settings"], "seed": None}
    seeds = sections["correct"].get("seeds")
    samples = None if seeds is None else sum(map(len, parse_ranges(seeds)))
    return digest(without_later({**sections, "recon": recon, "correct": {**sections["correct"], "seeds": samples}}))
