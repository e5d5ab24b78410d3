"""Loss curves of reconstruction: few points for each unit, kept beside what it learned, so that a resumed run has all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmq_cli.store import read_json, write_json

POINTS = 50
"""Points of a curve at most."""


class Curve:
    """The loss of one unit in one pass, without the penalty that pushes a rounding to its end."""

    def __init__(self, iterations: int) -> None:
        """iterations: how many losses there will be."""
        kept = min(POINTS, iterations)
        self._ends = {round((number + 1) * iterations / kept) for number in range(kept)}
        self._since: list[float] = []
        self._iteration = 0
        self.points: list[list[float]] = []

    def add(self, loss: float) -> None:
        """The loss of the next iteration; every point is the mean since the point before."""
        self._iteration += 1
        self._since.append(loss)
        if self._iteration in self._ends:
            self.points.append([self._iteration, sum(self._since) / len(self._since)])
            self._since.clear()


def save_curve(work: Path, number: int, name: str, unit: str, curve: Curve) -> None:
    """Keep the curve of a unit in the pass `name`. number: of the unit among all passes."""
    write_json(work / f"tmp-losses-{number:05d}.json", {"pass": name, "unit": unit, "points": curve.points})


def curves(work: Path) -> dict[str, dict[str, Any]]:
    """Every curve that was kept: {pass: {unit: [[iteration, loss], ...]}}, in the order of learning."""
    found: dict[str, dict[str, Any]] = {}
    for file in sorted(work.glob("tmp-losses-*.json")):
        kept = read_json(file)
        found.setdefault(kept["pass"], {})[kept["unit"]] = kept["points"]
    return found
