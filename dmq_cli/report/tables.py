"""Markdown tables from the finished cells of a table: a row for each cell, a column for each thing that differs or counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dmq_cli.errors import ConfigError
from dmq_cli.results.acting import differing, overrides_of
from dmq_cli.results.naming import bits_of
from dmq_cli.results.noise import over_full
from dmq_cli.store import read_json

if TYPE_CHECKING:
    from dmq_cli.metrics import Shown

Cell = dict[str, Any]  # what metrics.json holds

# From the plainest to what builds on the others; methods that are not named here come last, by the alphabet.
_METHODS = (
    "minmax", "adaround", "brecq", "qdrop", "ptq4dm", "qdiffusion", "ptqd", "tfmq", "tdq", "eda", "quest", "tcaq",
    "dynamic", "steps_n", "signround", "svdquant", "tac", "tac_ibc", "tac_ner", "tac_first", "tac_noise",
)  # fmt: skip
_ALIKE = " ≈ fp"
_SAID = (
    "sampler.num_inference_steps=",
    "cond.guidance=",
    "numerics",
    "protocol.",
)  # by the line under a table in other words
_STAGES = {"inputs": ("calibset", "targets"), "ranges": ("transform", "calibrate"), "learning": ("reconstruct",)}
_STAGES |= {"correction": ("correct",), "sampling": ("sample-",)}


@dataclass(frozen=True)
class _Column:
    """full: what the row of the full-precision twin shows; value: what the row of a cell shows."""

    title: str
    full: str
    value: Callable[[Cell], str]


def table(folder: Path, bits: str | None = None) -> str:
    """The Markdown table of all finished cells below `folder` (or those at these bits), with protocol and seeds under it.

    Size (10^6 bytes), bit operations (10^9 for one network call) and the time of every stage are shown where cells counted
    them. Raises ConfigError if there are no cells, or if two protocols would share a column.
    """
    cells = read_cells(folder)
    cells = [cell for cell in cells if bits in (None, cell["bits"])]
    if not cells:
        raise ConfigError(
            f"The table {folder.name} has no finished cells in {folder}; fill it with: make table-{folder.name}"
        )
    _require_one_protocol(folder, cells)
    settings = varied(cells)
    columns = [*_names(settings), *_overrides(cells, settings), *_numbers(cells), *_costs(cells)]
    rows = [[column.title for column in columns], ["---"] * len(columns), [column.full for column in columns]]
    for cell in sorted(cells, key=lambda c: (order(c), [_sortable(_at(c, key)) for key in settings])):
        rows.append([column.value(cell) for column in columns])
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", _under(cells) + _legend(rows)])


def read_cells(folder: Path) -> list[Cell]:
    """The finished cells below a folder, with the bits that act."""
    cells = [read_json(file) for file in sorted(folder.glob("*/metrics.json"))]
    return [{**cell, "bits": bits_of(cell)} for cell in cells]


def own_overrides(cells: Sequence[Cell]) -> list[list[str]]:
    """Of each cell what acts in it and not in all."""
    return differing([overrides_of(cell) for cell in cells])


def telling_bits(cells: Iterable[Cell]) -> str:
    """The bits at which the worst distance is the greatest multiple of the best one."""
    found: dict[str, list[float]] = {}
    for cell in cells:
        found.setdefault(str(cell["bits"]), []).append(float(cell["quantized"]["fd"]))
    return max(found, key=lambda bits: max(found[bits]) / max(min(found[bits]), 1e-9))


def order(cell: Cell) -> tuple[Any, ...]:
    """Sorts cells: widest first, then from baselines to what builds on them."""
    widths = [-int(n) for n in re.findall(r"\d+", cell["bits"])]
    method = cell["method"]
    return (widths, _METHODS.index(method) if method in _METHODS else len(_METHODS), method)


def varied(cells: Iterable[Cell]) -> list[str]:
    """Settings of budget, reconstruction and correction that differ between cells of the same method: each needs a column of its own."""
    values: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in _settings(cell).items():
            values.setdefault(f"{cell['method']} {key}", set()).add(str(value))
    return sorted({name.split()[1] for name, seen in values.items() if len(seen) > 1})


def number(metrics: Mapping[str, Any], side: str, key: str) -> str:
    """One number of metrics.json with two digits; with its deviation over the seed ranges where there are several, else with
    its 95 % interval where it has one. side: fp, quantized or paired.
    """
    numbers = metrics[side]
    if spread := numbers.get(f"{key}_over_seeds"):
        return f"{numbers[key]:.2f} ± {spread['std']:.2f}"
    within = metrics.get("intervals", {}).get(side, {}).get(key)
    return f"{numbers[key]:.2f}" + (f" [{within[0]:.2f}, {within[1]:.2f}]" if within else "")


def columns(metrics: Cell) -> dict[str, str]:
    """The numbers a table shows, with their headings: the protocol's, and FD-inf beside FD where it was extrapolated."""
    return {
        key: name for key, name in headings(metrics).items() if key in metrics["fp"]
    }  # agreement is not, if nothing was asked


def headings(metrics: Mapping[str, Any]) -> dict[str, str]:
    """The headings of all that the protocol shows, measured or not; FD-inf stands beside FD."""
    found: dict[str, str] = {}
    for key, name in metrics["protocol"]["columns"].items():
        found |= {key: name, **({"fd_inf": f"{name}∞"} if key == "fd" else {})}
    return found


def is_distance(key: str) -> bool:
    """Whether it is a number for which a difference from full precision inside the noise is told."""
    return how_shown(key).distance


def how_shown(key: str) -> Shown:
    """As its metric says; the metrics are imported where a number is shown."""
    from dmq_cli.metrics import shown

    return shown(key)


def _names(settings: Sequence[str]) -> list[_Column]:
    def setting(key: str) -> _Column:
        return _Column(key, "", lambda cell: str(_at(cell, key)))

    bits = _Column("bits", "fp", lambda cell: str(cell["bits"]))
    method = _Column("method", "full precision", _method)
    return [bits, method, *map(setting, settings)]


def _overrides(cells: Sequence[Cell], settings: Sequence[str]) -> list[_Column]:
    """A column of what tells cells apart besides the settings that have one of their own, if there is anything."""
    words = {
        id(cell): [word for word in own if word.partition("=")[0].rpartition(".")[2] not in settings]
        for cell, own in zip(cells, own_overrides(cells), strict=True)
    }
    return [_Column("overrides", "", lambda cell: " ".join(words[id(cell)]))] if any(words.values()) else []


def _numbers(cells: Sequence[Cell]) -> list[_Column]:
    """One cell speaks for all, if possible one that is new enough to have FD-inf and intervals; older ones leave them empty."""
    first = next((cell for cell in cells if "fd_inf" in cell["fp"]), cells[0])

    def distance(key: str, name: str) -> _Column:
        title = f"{name} {how_shown(key).arrow}".strip()
        return _Column(title, number(first, "fp", key), lambda cell: _beside_full(cell, key))

    paired = _Column("PSNR to FP ↑", "", lambda cell: number(cell, "paired", "psnr") + " dB")
    return [*(distance(key, name) for key, name in columns(first).items()), paired]


def _beside_full(cell: Cell, key: str) -> str:
    if key not in cell["quantized"]:
        return ""
    return number(cell, "quantized", key) + (_ALIKE if is_distance(key) and over_full(cell, key)[1] else "")


def _costs(cells: Sequence[Cell]) -> list[_Column]:
    """Size, bit operations and time; a cell from before costs were counted leaves them empty, a table of such has none."""

    def counted(title: str, full: str, show: Callable[[Cell], str]) -> _Column:
        return _Column(title, full, lambda cell: show(cell) if "cost" in cell else "")

    one = next((cell["cost"] for cell in cells if "cost" in cell), None)
    if one is None:
        return []
    return [
        counted(
            "size (MB)", f"{one['size_bytes_fp'] / 1e6:.2f}", lambda cell: f"{cell['cost']['size_bytes'] / 1e6:.2f}"
        ),
        counted("GBOPs", f"{one['bops_fp'] / 1e9:.1f}", lambda cell: f"{cell['cost']['bops'] / 1e9:.1f}"),
        counted(f"seconds: {', '.join(_STAGES)}", "", _time),
    ]


def _method(cell: Cell) -> str:
    deployable = cell.get("cost", {}).get("deployable", True)
    marks = ("" if deployable else " (not deployable)") + (" (random weights)" if is_random(cell) else "")
    return str(cell["method"]) + marks


def is_random(cell: Cell) -> bool:
    """Whether the numbers were measured on random weights, which say nothing about the model."""
    return cell.get("weights") == "random"


def _time(cell: Cell) -> str:
    """Wall time of every stage when it was made; what other cells share was made once."""
    return ", ".join(
        f"{sum(s for n, s in cell['seconds'].items() if n.startswith(own)):.0f}" for own in _STAGES.values()
    )


def _require_one_protocol(folder: Path, cells: Sequence[Cell]) -> None:
    found = {
        (c["protocol"]["hash"], c["model"], is_random(c), tuple(c["seeds"]), tuple(_fp_seeds(c)), str(_numerics(c)))
        for c in cells
    }
    if len(found) > 1:
        raise ConfigError(
            f"The cells in {folder} were measured under {len(found)} protocols, models, seeds or numerics, which cannot share a"
            " column; remove those that do not belong."
        )


def _numerics(cell: Cell) -> dict[str, Any]:
    """What it was sampled in; empty for the default."""
    found: dict[str, Any] = cell["config"].get("numerics", {})
    return found


def _fp_seeds(cell: Cell) -> list[str]:
    seeds: list[str] = cell["fp_seeds"] if "fp_seeds" in cell else cell["seeds"]
    return seeds


def _at(cell: Cell, key: str) -> Any:
    return _settings(cell).get(key, "")


def _settings(cell: Cell) -> dict[str, Any]:
    config = cell["config"]
    return {**config["budget"], **config["correct"], **config.get("recon", {})}


def _sortable(value: Any) -> str:
    return f"{value:020.6f}" if isinstance(value, int | float) else str(value)


def _under(cells: Sequence[Cell]) -> str:
    cell = cells[0]
    shared = [word for word in overrides_of(cell) if all(word in overrides_of(other) for other in cells)]
    shared = [word for word in shared if not word.startswith(_SAID)]
    alike = "".join(f"; {word}" for word in shared)
    protocol, budget = cell["protocol"], cell["config"]["budget"]["name"]
    full = "" if _fp_seeds(cell) == cell["seeds"] else f"; full precision: {_over(_fp_seeds(cell))}"
    numerics = "".join(f"; {key} {value}" for key, value in _numerics(cell).items() if value and key != "_target_")
    guidance = cell["config"].get("cond", {}).get("guidance")
    told = "" if guidance is None else f", guidance {guidance}"
    return (
        f"{cell['model']}, {cell['config']['sampler']['num_inference_steps']} steps{told}, {protocol['num_images']} images in each range,"
        f" {_over(cell['seeds'])}{full}{numerics}{alike}; budget {budget}; protocol {protocol['name']} `{protocol['hash']}`."
    )


def _legend(rows: Sequence[Sequence[str]]) -> str:
    """What the marks in the cells mean, where there are any."""
    text = " ".join(field for row in rows for field in row)
    marks = {
        r"\d \[": "In brackets: 95 % interval of what other seeds give on average.",
        _ALIKE: "≈ fp: the difference from full precision is inside the noise.",
        "∞": "∞: extrapolated to infinitely many images.",
    }
    return "".join(f" {meaning}" for mark, meaning in marks.items() if re.search(mark, text))


def _over(ranges: Sequence[str]) -> str:
    return f"{'mean ± standard deviation over seeds' if len(ranges) > 1 else 'seeds'} {', '.join(ranges)}"
