"""Figures of lines over the sampling run: error of the trajectory, cosine similarity, the correction's K and B."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmq_cli.report.evidence import Array
from dmq_cli.report.figures.style import INK, Look, counted, drawn, legend, logarithmic, steps
from dmq_cli.results.trace import Trace

WITHOUT = (0, (3.5, 2))  # the dashes of a run that is corrected, but here is not


def trajectory(traces: Mapping[str, Trace], looks: Mapping[str, Look]) -> str:
    """Relative squared error of the sampler's state and of the network's estimate; dashed without correction."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=False)
        for label, trace in traces.items():
            for twin in trace.twins:
                _line(left, trace.trajectory[twin], label, looks[label], trace.corrected and twin == "quantized")
                _line(right, trace.eps[twin], label, looks[label], trace.corrected and twin == "quantized")
        _over_steps(left, traces, "state of the sampler", final=True)
        _over_steps(right, traces, "estimate of the network")
        left.set_ylabel("squared error relative to FP")
        _with_dashes(figure, left, [*traces.values()])

    return drawn(draw, 3.1 + 0.2 * (len(traces) // 4))


def cosine(traces: Mapping[str, Trace], looks: Mapping[str, Look]) -> str:
    """Cosine similarity of the blocks' outputs to full precision: mean over blocks, and the worst block."""

    def draw(figure: Figure) -> None:
        axes = figure.subplots(1, 2, sharey=True)
        for label, trace in traces.items():
            for twin in trace.twins:
                without = trace.corrected and twin == "quantized"
                cosines = trace.block_cosine[twin]
                for place, values in zip(axes, (np.nanmean(cosines, axis=1), np.nanmin(cosines, axis=1)), strict=True):
                    _line(place, values, label, looks[label], without)
        _over_steps(axes[0], traces, "mean over blocks", log=False)
        _over_steps(axes[1], traces, "worst block of each step", log=False)
        axes[0].set_ylabel("cosine similarity to FP")
        _with_dashes(figure, axes[0], [*traces.values()])

    return drawn(draw, 3.1 + 0.2 * (len(traces) // 4))


def correction(tables: Mapping[str, Mapping[str, Array]], looks: Mapping[str, Look]) -> str:
    """K of every channel minus 1, dashed what the network's own error of gain would ask for, and the size of B, over the calls."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2)
        for label, table in tables.items():
            for channel, gain in enumerate(table["gain"].T):
                _line(left, gain - 1, label if channel == 0 else "", looks[label])
            for slope in table["slope"].T if "slope" in table else ():
                _line(left, slope - 1, "", looks[label], without=True)
            _line(right, size_by_call(table["bias"]), label, looks[label])
        left.axhline(0, color=INK, linewidth=0.6)
        left.set(title="gain of the noise estimate", ylabel="K - 1, a line for each channel", xlabel="network call")
        right.set(title="bias of the input", ylabel="root mean square of B", xlabel="network call")
        for axes in (left, right):
            counted(axes.xaxis)
        legend(figure, (left, right))

    return drawn(draw, 3.0)


def size_by_call(bias: Array) -> Array:
    """Root mean square of B at every call, (S,): over all elements, whatever the shape of a sample. bias: (S, ...)."""
    sizes: Array = np.sqrt((bias.astype(float) ** 2).reshape(len(bias), -1).mean(axis=1))
    return sizes


def _line(axes: Axes, values: Array, label: str, look: Look, without: bool = False) -> None:
    """without: drawn as what a corrected run would be without its correction."""
    axes.plot(
        values, color=look.colour, marker=look.marker, markevery=max(1, len(values) // 12), markersize=3.5,
        linestyle=WITHOUT if without else "-", label="_" if without or not label else label,
    )  # fmt: skip


def _over_steps(axes: Axes, traces: Mapping[str, Trace], title: str, final: bool = False, log: bool = True) -> None:
    every = [trace.timesteps for trace in traces.values()]
    if all(timesteps == every[0] for timesteps in every):
        steps(axes, every[0], final, most=8)
    else:
        axes.set_xlabel("network call (sampling goes to the right)")
        counted(axes.xaxis)
    axes.set_title(title)
    if log:
        axes.set_yscale("log", nonpositive="mask")
        logarithmic(axes.yaxis)


def _with_dashes(figure: Figure, axes: Axes, traces: Sequence[Trace]) -> None:
    """The legend: a solid line for each run, and what a dashed one means if there is one."""
    if any(trace.corrected for trace in traces):
        axes.plot([], [], color=INK, linestyle=WITHOUT, label="without its correction")
    legend(figure, axes)
