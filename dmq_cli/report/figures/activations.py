"""Figures of the quantizers' inputs: ranges over timesteps and channels, and the intervals chosen for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dmq_cli.report.evidence import Array
from dmq_cli.report.figures.style import COLOURS, INK, Look, drawn, legend, short, steps
from dmq_cli.results.trace import Trace

_MOST_BOXES = 25


def telling(trace: Trace, count: int = 4) -> list[int]:
    """Find the sites whose width (max - min) varies most over the calls, as a ratio; in execution order.

    Of layers that read the same tensor (queries, keys and values; projections of the timestep) only the first counts.
    """
    tensors: set[bytes] = set()
    ranked = []
    for site in np.argsort(-_ratios(trace), kind="stable").tolist():
        values = trace.activations[:, site].tobytes()
        if values not in tensors:
            tensors.add(values)
            ranked.append(site)
    return sorted(ranked[:count])


def _ratios(trace: Trace) -> Array:
    """Greatest width over least of every site; 0 where it is constant at some call."""
    width = trace.activations[..., 4] - trace.activations[..., 0]
    least = width.min(axis=0)
    ratios: Array = np.where(least > 0, width.max(axis=0) / np.maximum(least, 1e-12), 0)
    return ratios


def boxes(trace: Trace, colour: str = COLOURS[0]) -> str:
    """Box plots of the inputs of a few layers over timesteps, full precision (TDQ Fig. 2, TAC Fig. 5, TFMQ Fig. I)."""
    chosen = telling(trace)
    calls = range(0, len(trace.timesteps), -(-len(trace.timesteps) // _MOST_BOXES))

    def draw(figure: Figure) -> None:
        grid = figure.subplots(-(-len(chosen) // 2), min(2, len(chosen)), squeeze=False)
        for axes in list(grid.flat)[len(chosen) :]:
            axes.set_axis_off()
        for axes, site in zip(grid.flat, chosen, strict=False):
            named = ("whislo", "q1", "med", "q3", "whishi")
            stats = [{**dict(zip(named, trace.activations[call, site], strict=True)), "fliers": []} for call in calls]
            line, box = {"color": INK, "linewidth": 0.8}, {"facecolor": colour, "edgecolor": INK, "linewidth": 0.6}
            axes.bxp(
                stats, positions=list(calls), widths=0.6 * (calls.step), showfliers=False, patch_artist=True,
                boxprops=box, medianprops=line, whiskerprops=line, capprops=line,
            )  # fmt: skip
            axes.set_title(short(trace.sites[site]))
            axes.set_ylabel("input")
            steps(axes, trace.timesteps, most=8)

    return drawn(draw, 2.4 * -(-len(chosen) // 2))


def channels(trace: Trace, count: int = 4) -> str:
    """The greatest |input| of every channel, over all calls, before and after the transform (TCAQ Fig. A, B)."""
    full, after = trace.channel_max["full"], trace.channel_max["transformed"]
    spread = {name: _spread(full[name]) for name in after}
    chosen = sorted(sorted(spread, key=lambda name: -spread[name])[:count], key=trace.channels.index)

    def draw(figure: Figure) -> None:
        grid = figure.subplots(len(chosen), 2, squeeze=False)
        for row, name in zip(grid, chosen, strict=True):
            for axes, values, title in zip(row, (full[name], after[name]), ("before", "after"), strict=True):
                _band(axes, values)
                axes.set_title(f"{short(name)}, {title}")
            row[0].set_ylabel("greatest |input|")
        for axes in grid[-1]:
            axes.set_xlabel("input channel")
        legend(figure, grid[0][0])

    return drawn(draw, 1.9 * len(chosen) + 0.4)


def intervals(
    traces: Mapping[str, Trace], bits: Mapping[str, Mapping[str, int]], looks: Mapping[str, Look], sites: Sequence[str]
) -> str:
    """The intervals of input quantizers, scale x (2^bits - 1), beside the range of the inputs (TDQ Fig. 9). bits: by run and site."""
    first = next(iter(traces.values()))

    def draw(figure: Figure) -> None:
        grid = figure.subplots(-(-len(sites) // 2), min(2, len(sites)), squeeze=False)
        for axes in list(grid.flat)[len(sites) :]:
            axes.set_axis_off()
        for axes, site in zip(grid.flat, sites, strict=False):
            extremes = first.activations[:, first.sites.index(site)]
            axes.fill_between(
                range(len(extremes)),
                0,
                extremes[:, 4] - extremes[:, 0],
                color=INK,
                alpha=0.14,
                linewidth=0,
                label="range of the input, FP",
            )
            for label, trace in ((label, trace) for label, trace in traces.items() if site in bits[label]):
                covered = trace.scales[:, trace.sites.index(site)] * (2 ** bits[label][site] - 1)
                axes.plot(covered, color=looks[label].colour, marker=looks[label].marker, markersize=3, label=label)
            axes.set_title(short(site))
            axes.set_ylabel("width")
            axes.set_ylim(bottom=0)
            steps(axes, first.timesteps, most=8)
        legend(figure, grid.flat)

    return drawn(draw, 2.3 * -(-len(sites) // 2) + 0.4)


def _spread(values: Array) -> float:
    greatest = values.max(axis=0)
    return float(greatest.max() / max(float(np.median(greatest)), 1e-12))


def _band(axes: Axes, values: Array) -> None:
    """The greatest over all calls as bars, the least as a line."""
    places = np.arange(values.shape[1])
    axes.bar(places, values.max(axis=0), width=1.0, color=COLOURS[5], label="over all timesteps", linewidth=0)
    axes.step(
        places,
        values.min(axis=0),
        where="mid",
        color=COLOURS[1],
        linewidth=1,
        label="at the timestep where it is least",
    )


def covered(traces: Mapping[str, Trace], bits: Mapping[str, Mapping[str, int]], count: int = 4) -> list[str]:
    """Find the sites of `telling` among those with an interval of known bits in some run."""
    first = next(iter(traces.values()))
    usable = [
        site
        for site, name in enumerate(first.sites)
        if any(name in bits[label] and np.isfinite(trace.scales[:, site]).all() for label, trace in traces.items())
    ]
    inner = replace(first, activations=first.activations[:, usable])
    return [first.sites[usable[place]] for place in telling(inner, count)]
