"""Loss curves of reconstruction: a few points for each unit, saved with its quantizers, so that a resumed run has all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmq_cli.store import read_json, write_json

POINTS = 50
"""Points of a curve at most."""


class Curve:
    """The loss of one unit in one pass, without the penalty that drives roundings to 0 or 1."""

    def __init__(self, iterations: int) -> None:
        """iterations: number of losses that will be added."""
        num_points = min(POINTS, iterations)
        self._ends = {round((number + 1) * iterations / num_points) for number in range(num_points)}
        self.since: list[float] = []
        """Losses since the last point."""
        self._iteration = 0
        self.points: list[list[float]] = []

    def add(self, loss: float) -> None:
        """Add the loss of the next iteration; every point is the mean since the point before."""
        self._iteration += 1
        self.since.append(loss)
        if self._iteration in self._ends:
            self.points.append([self._iteration, sum(self.since) / len(self.since)])
            self.since.clear()

    def restore(self, iteration: int, points: list[list[float]], since: list[float]) -> None:
        """Go on after this iteration, with what the curve held then."""
        self._iteration, self.points, self.since = iteration, points, since


def save_curve(work: Path, number: int, name: str, unit: str, curve: Curve) -> None:
    """Write the curve of a unit in the pass `name`. number: of the unit, counted over all passes."""
    write_json(work / f"tmp-losses-{number:05d}.json", {"pass": name, "unit": unit, "points": curve.points})


def curves(work: Path) -> dict[str, dict[str, Any]]:
    """Read every curve: {pass: {unit: [[iteration, loss], ...]}}, in the order of learning."""
    losses: dict[str, dict[str, Any]] = {}
    for file in sorted(work.glob("tmp-losses-*.json")):
        entry = read_json(file)
        losses.setdefault(entry["pass"], {})[entry["unit"]] = entry["points"]
    return losses
