"""The style of all figures: drawn by matplotlib into SVG that takes its colours and its font from the page around it.

The page defines --ink, --rule, --soft and --c0 ... --c6 for light and dark; --c are Okabe and Ito's colours, which colour-blind
people can tell apart. No pyplot: nothing here is global.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

INK, RULE, SOFT = "#010203", "#040506", "#070809"
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a7a7a")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
WIDTH = 7.2  # inches; the page draws an inch as about 100 pixels
# The same method has the same colour in every report, unless another one of this report has it already.
_PREFERRED = {"qdiffusion": 0, "tac": 1, "tfmq": 2, "tdq": 3, "tcaq": 4, "ptqd": 5, "minmax": 6}
_RC: Any = {
    "svg.fonttype": "none", "svg.hashsalt": "dmq", "svg.id": "figure", "text.parse_math": False,
    "font.size": 9, "axes.titlesize": 9, "axes.labelsize": 9, "xtick.labelsize": 8, "ytick.labelsize": 8,
    "text.color": INK, "axes.labelcolor": INK, "axes.titlecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.edgecolor": INK, "axes.linewidth": 0.6, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.grid.axis": "y", "grid.color": RULE, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.titlelocation": "left", "axes.titlepad": 7, "lines.linewidth": 1.5, "lines.markersize": 4,
    "xtick.major.width": 0.6, "ytick.major.width": 0.6, "ytick.minor.width": 0.4, "xtick.major.size": 3,
    "legend.frameon": False, "figure.constrained_layout.h_pad": 0.08, "legend.fontsize": 8, "legend.handlelength": 2.2, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "none", "axes.formatter.limits": (-4, 5),
}  # fmt: skip


class Kind(NamedTuple):
    """The properties of a run that its look shows."""

    method: str
    bits: str


@dataclass(frozen=True)
class Look:
    """How a run is drawn everywhere on a page. bits: of the run, mostly shown by its marker."""

    colour: str
    marker: str
    bits: str


def looks(first: Mapping[str, Kind], further: Mapping[str, Kind] | None = None) -> dict[str, Look]:
    """A look for every label. Colours by method, markers by bits; those of `first` are given out before those of `rest`.

    Where that would not tell labels apart: colours by label if there is one method only, markers by turns if several have
    the same method and bits.
    """
    runs = {**first, **(further or {})}
    single = len(runs) > 1 and len({kind.method for kind in runs.values()}) == 1
    chosen = [_colours(dict.fromkeys(kind.method for kind in part.values())) for part in (runs, first)]
    widths = list(dict.fromkeys(kind.bits for kind in runs.values()))
    turns = len(set(runs.values())) < len(runs)
    by_label: dict[str, Look] = {}
    for place, (label, kind) in enumerate(runs.items()):
        colour = COLOURS[place % len(COLOURS)] if single else {**chosen[0], **chosen[1]}[kind.method]
        by_label[label] = Look(colour, MARKERS[(place if turns else widths.index(kind.bits)) % len(MARKERS)], kind.bits)
    return by_label


def _colours(methods: Iterable[str]) -> dict[str, str]:
    """Give each method its preferred colour, and the others the free ones in turn."""
    preferred = {method: COLOURS[_PREFERRED[method]] for method in methods if method in _PREFERRED}
    free = [colour for colour in COLOURS if colour not in preferred.values()] or list(COLOURS)
    unassigned = (method for method in methods if method not in preferred)
    return preferred | {method: free[place % len(free)] for place, method in enumerate(unassigned)}


def drawn(draw: Callable[[Figure], None], height: float, width: float = WIDTH) -> str:
    """Draw a figure and return its SVG element; size in inches. Deterministic."""
    with mpl.rc_context(_RC):
        figure = Figure(figsize=(width, height), layout="constrained")
        canvas = FigureCanvasSVG(figure)
        draw(figure)
        out = io.StringIO()
        write: Any = canvas.print_svg
        write(out, metadata={"Date": None})  # savefig would draw everything twice
    return _inline(out.getvalue())


def steps(axes: Axes, timesteps: Sequence[int], final: bool = False, most: int = 11) -> None:
    """Label an axis of call numbers with their timesteps; final: the last position is the finished image."""
    stride = -(-len(timesteps) // most)
    places = list(range(0, len(timesteps), stride))
    names = [str(timesteps[place]) for place in places]
    if final:
        while places and len(timesteps) - places[-1] < stride:
            places.pop(), names.pop()
        places, names = [*places, len(timesteps)], [*names, "image"]
    axes.set_xticks(places, names)
    place = axes.get_subplotspec()
    if place is None or place.is_last_row():
        axes.set_xlabel("timestep (sampling goes to the right)")


def counted(axis: Axis) -> None:
    """Ticks of an axis that counts, at whole numbers only."""
    axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def logarithmic(axis: Axis) -> None:
    """Plain labels for an axis that is logarithmic and has its data: powers of ten, and 2 and 5 where it spans few."""
    low, high = sorted(axis.get_view_interval())
    wide = low <= 0 or math.log10(high / low) >= 1.5
    axis.set_major_formatter(FuncFormatter(_power))
    axis.set_minor_formatter(NullFormatter() if wide else FuncFormatter(_between))


def _between(value: float, _: object = None) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def _power(value: float, _: object = None) -> str:
    exponent = round(math.log10(value))
    return f"{value:g}" if -2 <= exponent <= 3 else "10" + str(exponent).translate(_RAISED)


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def legend(figure: Figure, axes: Axes | Iterable[Axes]) -> None:
    """One legend above the axes, each name once, in as many columns as fit."""
    entries: dict[str, Any] = {}
    for axis in [axes] if isinstance(axes, Axes) else axes:
        handles, names = axis.get_legend_handles_labels()
        entries = {**dict(zip(names, handles, strict=True)), **entries}
    points = figure.get_figwidth() * 72
    columns = int(points // (50 + 5 * max(map(len, entries))))  # a line and its gaps, and a letter of 8 points
    figure.legend(entries.values(), entries.keys(), loc="outside upper left", ncols=max(1, min(columns, len(entries))))


def short(name: str) -> str:
    """A layer's name that fits beside a figure: down_blocks.0.resnets.1.conv1 becomes down.0.res.1.conv1."""
    for long, brief in (
        ("_blocks", ""),
        ("_block", ""),
        ("resnets", "res"),
        ("attentions", "attn"),
        ("transformer", "tr"),
    ):
        name = name.replace(long, brief)
    return name


def _inline(svg: str) -> str:
    """Without prolog, namespaces and fixed size; colours and font are the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace(INK, "var(--ink)").replace(RULE, "var(--rule)").replace(SOFT, "var(--soft)")
    for index, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f"var(--c{index})")
    svg = re.sub(
        r"<defs>\s*<style.*?</style>\s*</defs>\s*", "", svg, flags=re.DOTALL
    )  # it would hold for the whole page
    svg = re.sub(r'<(g|svg)\b([^>]*?) id="[^"]*"', r"<\1\2", svg)  # no two figures share an id
    svg = re.sub(r"font: ([^;\"]*?)([\d.]+)px [^;\"]*", r"font-size: \2px", svg)
    return re.sub(r"font-family: [^;\"]*;? ?", "", svg)
