"""Heat maps over blocks and steps."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dmq_cli.report.figures.style import drawn, logarithmic, short, steps
from dmq_cli.results.trace import Trace

_DECADES = 6  # of the scale: smaller values are drawn as the smallest


def errors(traces: Mapping[str, Trace]) -> str:
    """Relative squared error of every block's output at every call; all maps share one logarithmic scale."""
    maps = {
        f"{label}{', ' + twin if trace.corrected else ''}": (trace, trace.block_error[twin])
        for label, trace in traces.items()
        for twin in trace.twins
    }
    values = np.concatenate([errors.ravel() for _, errors in maps.values()])
    values = values[np.isfinite(values) & (values > 0)]
    top = float(values.max()) if values.size else 1.0
    low = max(float(values.min()), top * 10.0**-_DECADES) if values.size else 0.1
    norm = LogNorm(low, top if top > low else low * 10, clip=True)
    alike = len({tuple(trace.blocks) for trace in traces.values()}) == 1
    columns = min(2, len(maps)) if alike else 1  # the names beside a row are those of its first map
    rows, blocks = math.ceil(len(maps) / columns), max(len(trace.blocks) for trace, _ in maps.values())

    def draw(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in list(grid.flat)[len(maps) :]:
            axes.set_axis_off()
        for axes, (name, (trace, values)) in zip(grid.flat, maps.items(), strict=False):
            image = axes.imshow(values.T, aspect="auto", norm=norm, cmap="viridis", interpolation="nearest")
            axes.grid(False)
            axes.set_title(name)
            places = range(0, len(trace.blocks), -(-len(trace.blocks) // 16))
            names = [short(trace.blocks[place]) for place in places]
            is_first = axes.get_subplotspec().is_first_col()
            axes.set_yticks(list(places), names if is_first else [""] * len(places), fontsize=7)
            steps(axes, trace.timesteps, most=8)
        bar = figure.colorbar(image, ax=grid, label="squared error relative to FP", fraction=0.03, pad=0.01)
        bar.outline.set_visible(False)
        logarithmic(bar.ax.yaxis)

    return drawn(draw, rows * max(2.4, 0.13 * min(blocks, 16) + 1.0))
