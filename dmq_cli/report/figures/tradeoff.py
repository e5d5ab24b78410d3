"""Distance against cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmq_cli.report.figures.style import INK, RULE, SOFT, Look, drawn, legend, logarithmic
from dmq_cli.results.record import Number


@dataclass(frozen=True)
class Point:
    """gbops: 10^9 bit operations of one network call."""

    gbops: float
    distance: Number


def pareto(points: Mapping[str, Point], full: Point, looks: Mapping[str, Look], distance: str) -> str:
    """Every run and full precision; a line joins those that no cheaper run beats. Of many runs only these are labelled in full, the
    others with their bits.
    """
    many = len(points) > _MOST_NAMED
    front = _front({**points, "full precision": full})

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot(
            [p.gbops for p in front.values()], [p.distance.value for p in front.values()], color=INK, linewidth=0.8,
            linestyle=":",
        )  # fmt: skip
        for label, point in points.items():
            look, grey = looks[label], many and label not in front
            _mark(axes, point, SOFT if grey else look.colour, look.marker, look.bits.upper() if grey else label, grey)
        _mark(axes, full, INK, "*", "full precision")
        distances = [point.distance.value for point in (full, *points.values())]
        wide = min(distances) > 0 and max(distances) / min(distances) > 3
        axes.set(xscale="log", yscale="log" if wide else "linear", xlabel=_COST, ylabel=f"{distance} (lower is better)")
        axes.grid(True, axis="both", color=RULE)
        axes.margins(x=0.09)
        for axis in (axes.xaxis, axes.yaxis) if wide else (axes.xaxis,):
            logarithmic(axis)
        legend(figure, axes)

    return drawn(draw, 3.6 + 0.17 * (0 if many else len(points) // 4))


_COST = "GBOPs of one network call (10⁹ bit operations)"
_MOST_NAMED = 12


def _mark(axes: Axes, point: Point, colour: str, marker: str, label: str, grey: bool = False) -> None:
    half = point.distance.half
    size = 9 if marker == "*" else 5 if grey else 6
    axes.errorbar(
        point.gbops,
        point.distance.value,
        yerr=half,
        color=colour,
        marker=marker,
        linestyle="none",
        label=label,
        capsize=2,
        alpha=0.55 if grey else 1,
        zorder=2 if grey else 3,
        elinewidth=0.8,
        markersize=size,
    )


def _front(points: Mapping[str, Point]) -> dict[str, Point]:
    """Find the runs that no cheaper run beats, ordered by cost."""
    front: dict[str, Point] = {}
    best = math.inf
    for label, point in sorted(points.items(), key=lambda item: (item[1].gbops, item[1].distance.value)):
        if point.distance.value < best:
            front[label], best = point, point.distance.value
    return front
