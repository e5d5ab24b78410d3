"""Loss curves of reconstruction."""

from __future__ import annotations

import matplotlib as mpl
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure

from dmq_cli.report.evidence import Losses
from dmq_cli.report.figures.style import INK, counted, drawn, logarithmic


def curves(passes: Losses) -> str:
    """A panel for each pass, a line for each unit, from dark (first in the network) to light (last); one line where the network learns as a
    whole."""
    learned = {name: units for name, units in passes.items() if units}
    columns = min(2, len(learned))
    rows = -(-len(learned) // columns)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        colours = mpl.colormaps["viridis"]
        for axes in list(grid.flat)[len(learned) :]:
            axes.set_axis_off()
        for place, (axes, (name, units)) in enumerate(zip(grid.flat, learned.items(), strict=False)):
            for depth, curve in enumerate(units.values()):
                where = 0.9 * depth / max(len(units) - 1, 1)
                axes.plot(*zip(*curve, strict=True), color=colours(where), linewidth=1)
            axes.set(title=f"pass {name}", xlabel="iteration" if place + columns >= len(learned) else "")
            counted(axes.xaxis)
            if all(loss > 0 for curve in units.values() for _, loss in curve):  # distances in decibels are not
                axes.set(yscale="log")
                logarithmic(axes.yaxis)
        whole = all(len(units) == 1 for units in learned.values())
        for row in grid:
            row[0].set_ylabel("loss" if whole else "loss of a block")
        if whole:
            return
        ends = ScalarMappable(cmap=colours)
        bar = figure.colorbar(ends, ax=grid, ticks=[0, 1], fraction=0.03, pad=0.01)
        bar.ax.set_yticklabels(["first block", "last"])
        bar.outline.set_edgecolor(INK)

    return drawn(draw, 2.2 * rows + 0.6)
