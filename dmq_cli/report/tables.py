"""Markdown tables from the finished cells of a table: a row for each cell, a column for each thing that differs or counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmq_cli.errors import ConfigError
from dmq_cli.metrics import shown as shown_as
from dmq_cli.results.acting import differing
from dmq_cli.results.later import former_values, without_later
from dmq_cli.results.noise import over_full
from dmq_cli.results.record import Evaluation, NetworkCost, as_evaluation, metrics_files
from dmq_cli.results.standing import standing
from dmq_cli.results.verdict import with_noise
from dmq_cli.store.recorded import read_object

# From the plainest to what builds on the others; methods that are not named here come last, by the alphabet.
_METHODS = (
    "minmax", "adaround", "brecq", "qdrop", "ptq4dm", "qdiffusion", "ptqd", "tfmq", "tfmq_embeddings", "tdq",
    "eda", "eda_released", "quest", "tcaq", "dynamic", "steps_n", "signround", "svdquant", "tac", "tac_ibc", "tac_ner", "tac_first", "tac_noise",
    "lsq", "pact", "nipq", "efficientdm", "dynamic_qat", "steps_n_qat", "tdq_qat",
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
    value: Callable[[Evaluation], str]


def table(
    folder: Path,
    bits: Sequence[str] | None = None,
    methods: Sequence[str] | None = None,
    shown: Sequence[str] | None = None,
    more: Sequence[Path] = (),
) -> str:
    """The Markdown table of all finished cells below `folder`, with protocol and seeds under it.

    bits, methods: only the cells with one of these. shown: only the columns whose titles begin with one of these words. more: folders of other
    tables, whose cells are rows, too. Size (10^6 bytes), bit operations (10^9 for one network call) and the time of every stage are shown where
    cells counted them. Raises ConfigError if there are no cells, if two protocols would share a column, or if the columns shown do not tell
    rows apart.
    """
    groups = {place.name: _chosen(place, bits, methods) for place in (folder, *more)}
    cells = [cell for group in groups.values() for cell in group]
    require_one_protocol(folder, cells)
    settings = varied(cells)
    labels = [*_names(settings), *_overrides(groups.values(), settings)]
    columns = [c for c in (*labels, *_numbers(cells), *_costs(cells)) if _selected(c.title.split()[0], shown)]
    _require_own_rows(groups, labels)
    _require_apart(folder, cells, labels, columns)
    rows = [[column.title for column in columns], ["---"] * len(columns), [column.full for column in columns]]
    for cell in sorted(cells, key=lambda c: (order(c), [_sortable(_at(c, key)) for key in settings], c.overrides)):
        rows.append([column.value(cell) for column in columns])
    return "\n".join([*("| " + " | ".join(row) + " |" for row in rows), "", _under(groups) + _legend(rows)])


def _chosen(folder: Path, bits: Sequence[str] | None, methods: Sequence[str] | None) -> list[Evaluation]:
    cells = [cell for cell in read_cells(folder) if _selected(cell.bits, bits) and _selected(cell.method, methods)]
    if not cells:
        which = "".join(f" of {', '.join(names)}" for names in (methods, bits) if names)
        raise ConfigError(
            f"The table {folder.name} has no finished cells{which} in {folder}; fill it with: dmq table {folder.name}"
        )
    return cells


def _require_own_rows(groups: Mapping[str, Sequence[Evaluation]], labels: Sequence[_Column]) -> None:
    """Raise ConfigError where cells of two tables have the same labels: what all cells of a table share stands in no column."""
    table_of: dict[tuple[str, ...], str] = {}
    for name, cells in groups.items():
        for row in {tuple(label.value(cell) for label in labels) for cell in cells}:
            if table_of.setdefault(row, name) != name:
                raise ConfigError(
                    f"The tables {table_of[row]} and {name} both have the row {' '.join(row)}; choose methods or bits."
                )


def _require_apart(
    folder: Path, cells: Sequence[Evaluation], labels: Sequence[_Column], columns: Sequence[_Column]
) -> None:
    """Raise ConfigError where two rows differ only in columns that are not shown."""
    kept = [label for label in labels if label in columns]
    shown_labels = {tuple(label.value(cell) for label in kept) for cell in cells}
    if len(shown_labels) < len({tuple(label.value(cell) for label in labels) for cell in cells}):
        left_out = ", ".join(label.title for label in labels if label not in columns)
        raise ConfigError(
            f"The table {folder.name} has rows that only {left_out} tell apart; show the columns that do."
        )


def _selected(name: str, names: Sequence[str] | None) -> bool:
    return names is None or name in names


def read_cells(folder: Path) -> list[Evaluation]:
    """The finished cells below a folder."""
    return [as_evaluation(read_object(file), file) for file in metrics_files(folder)]


def own_overrides(cells: Sequence[Evaluation]) -> list[list[str]]:
    """Of each cell what acts in it and not in all."""
    return differing([cell.overrides for cell in cells])


def telling_bits(cells: Iterable[Evaluation]) -> str:
    """The bits at which the greatest headline number is the greatest multiple of the least one."""
    numbers: dict[str, list[float]] = {}
    for cell in cells:
        number = None if cell.headline is None else cell.number(*cell.headline)
        numbers.setdefault(str(cell.bits), []).append(0.0 if number is None else number.value)
    return max(numbers, key=lambda bits: max(numbers[bits]) / max(min(numbers[bits]), 1e-9))


def order(cell: Evaluation) -> tuple[Any, ...]:
    """Sorts cells: widest first, then from baselines to what builds on them."""
    widths = [-int(n) for n in re.findall(r"\d+", cell.bits)]
    method = cell.method
    return (widths, _METHODS.index(method) if method in _METHODS else len(_METHODS), method)


def varied(cells: Iterable[Evaluation]) -> list[str]:
    """Settings of budget, scheme, reconstruction and correction that differ between cells of the same method: each needs a column of its own."""
    values: dict[str, set[str]] = {}
    for cell in cells:
        for key, value in _settings(cell).items():
            values.setdefault(f"{cell.method} {key}", set()).add(str(value))
    return sorted({name.split()[1] for name, distinct in values.items() if len(distinct) > 1})


def columns(evaluation: Evaluation) -> dict[str, str]:
    """The numbers a table shows, with their headings: the protocol's, and FD-inf beside FD where it was extrapolated."""
    return {
        key: name for key, name in headings(evaluation).items() if key in evaluation.fp
    }  # agreement is not, if nothing was asked


_UNNAMED = ("precision", "recall")  # measured by protocols whose record, which keys rest on, has no heading for them


def headings(evaluation: Evaluation) -> dict[str, str]:
    """The headings of all that the protocol shows, measured or not; FD-inf stands beside FD, precision and recall at the end."""
    titles: dict[str, str] = {}
    for key, name in evaluation.protocol["columns"].items():
        titles |= {key: name, **({"fd_inf": f"{name}∞"} if key == "fd" else {})}
    return {**titles, **{key: shown_as(key).heading for key in _UNNAMED if key in evaluation.fp and key not in titles}}


def _names(settings: Sequence[str]) -> list[_Column]:
    def setting(key: str) -> _Column:
        return _Column(key, "", lambda cell: str(_at(cell, key)))

    bits = _Column("bits", "fp", lambda cell: str(cell.bits))
    method = _Column("method", "full precision", _method)
    return [bits, method, *map(setting, settings)]


def _overrides(groups: Iterable[Sequence[Evaluation]], settings: Sequence[str]) -> list[_Column]:
    """A column of what tells cells of a table apart besides the settings that have one of their own, if there is anything."""
    words = {
        id(cell): [word for word in overrides if word.partition("=")[0].rpartition(".")[2] not in settings]
        for cells in groups
        for cell, overrides in zip(cells, own_overrides(cells), strict=True)
    }
    return [_Column("overrides", "", lambda cell: " ".join(words[id(cell)]))] if any(words.values()) else []


def _numbers(cells: Sequence[Evaluation]) -> list[_Column]:
    """One cell speaks for all, if possible one that is new enough to have FD-inf and intervals; older ones leave them empty."""
    first = next((cell for cell in cells if "fd_inf" in cell.fp), cells[0])

    def distance(key: str, name: str) -> _Column:
        title = f"{name} {shown_as(key).arrow}".strip()
        return _Column(title, with_noise(first.fp[key], key), lambda cell: _beside_full(cell, key))

    return [*(distance(key, name) for key, name in columns(first).items()), *map(_paired, paired_shown(cells))]


def paired_shown(cells: Sequence[Evaluation]) -> list[str]:
    """The comparisons with full precision that are shown in brief: PSNR, and all where there is nothing else."""
    keys = dict.fromkeys(key for cell in cells for key in cell.paired)
    return [key for key in keys if key == "psnr" or not any(cell.quantized for cell in cells)]


def _paired(key: str) -> _Column:
    how = shown_as(key)

    def text(cell: Evaluation) -> str:
        unit = f" {how.unit}" if how.unit else ""
        return with_noise(cell.paired[key], key) + unit if key in cell.paired else ""

    return _Column(f"{how.heading} {how.arrow}".strip(), "", text)


def _beside_full(cell: Evaluation, key: str) -> str:
    if key not in cell.quantized:
        return ""
    return with_noise(cell.quantized[key], key) + (_ALIKE if shown_as(key).distance and over_full(cell, key)[1] else "")


def _costs(cells: Sequence[Evaluation]) -> list[_Column]:
    """Size, bit operations and time; a cell that counted none leaves them empty, a table of such has none."""

    def counted(title: str, full: str, show: Callable[[NetworkCost], str]) -> _Column:
        return _Column(title, full, lambda cell: "" if cell.cost is None else show(cell.cost))

    first = next((cell.cost for cell in cells if cell.cost is not None), None)
    if first is None:
        return []
    return [
        counted("size (MB)", f"{first.size_bytes_fp / 1e6:.2f}", lambda cost: f"{cost.size_bytes / 1e6:.2f}"),
        counted("GBOPs", f"{first.bops_fp / 1e9:.1f}", lambda cost: f"{cost.bops / 1e9:.1f}"),
        _Column(f"seconds: {', '.join(_STAGES)}", "", lambda cell: "" if cell.cost is None else _time(cell)),
    ]


def _method(cell: Evaluation) -> str:
    deployable = cell.cost is None or cell.cost.deployable
    marks = ("" if deployable else " (not deployable)") + (" (random weights)" if cell.random else "")
    return cell.method + marks


def _time(cell: Evaluation) -> str:
    """Wall time of every stage when it was made; what other cells share was made once."""
    return ", ".join(
        f"{sum(s for n, s in cell.seconds.items() if n.startswith(prefixes)):.0f}" for prefixes in _STAGES.values()
    )


def require_one_protocol(folder: Path, cells: Sequence[Evaluation]) -> None:
    """Raise ConfigError where the full-precision numbers of cells rest on different things (`results.standing`)."""
    standings = {standing(cell) for cell in cells}
    if len(standings) > 1:
        raise ConfigError(
            f"The cells in {folder} were measured under {len(standings)} protocols, models, samplers, seeds or numerics, which cannot share a"
            " column; remove those that do not belong."
        )


def _numerics(cell: Evaluation) -> dict[str, Any]:
    """What it was sampled in; empty for the default."""
    numerics: dict[str, Any] = cell.config.get("numerics", {})
    return numerics


def _at(cell: Evaluation, key: str) -> Any:
    return _settings(cell).get(key, "")


def _settings(cell: Evaluation) -> dict[str, Any]:
    """The plain values of these sections by name: overrides tell nested ones apart.

    What was added or has changed since is left out as in keys, so that old and new cells compare.
    """
    sections = without_later({name: cell.config.get(name, {}) for name in ("budget", "correct", "recon")}, top=True)
    recon = {**sections["recon"], **_of_training(sections["recon"])}
    settings = {**sections["budget"], **cell.config.get("scheme", {}), **sections["correct"], **recon}
    return {k: v for k, v in settings.items() if k != "_target_" and not isinstance(v, Mapping | list)}


def _of_training(recon: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a training, which are a section of their own."""
    if "settings" not in recon:
        return {}
    settings = {**recon.get("weights", {}), **recon["settings"]}
    return {"settings": None, "weights": None, **former_values("dmq_cli.qat.Settings"), **settings}


def _sortable(value: Any) -> str:
    return f"{value:020.6f}" if isinstance(value, int | float) else str(value)


def _under(groups: Mapping[str, Sequence[Evaluation]]) -> str:
    cell = next(iter(groups.values()))[0]
    shared = {name: words for name, cells in groups.items() if (words := _shared(cells))}
    separator = ", " if len(groups) > 1 else "; "
    alike = "".join(f"; {f'{name}: ' * (len(groups) > 1)}{separator.join(words)}" for name, words in shared.items())
    protocol = cell.protocol
    budgets = " and ".join(dict.fromkeys(c.config["budget"]["name"] for cells in groups.values() for c in cells))
    full = "" if cell.fp_seeds == cell.seeds else f"; full precision: {_over(cell.fp_seeds)}"
    numerics = "".join(f"; {key} {value}" for key, value in _numerics(cell).items() if value and key != "_target_")
    guidance = cell.config.get("cond", {}).get("guidance")
    guidance_text = "" if guidance is None else f", guidance {guidance}"
    return (
        f"{cell.model}, {cell.config['sampler']['num_inference_steps']} steps{guidance_text}, {protocol['num_images']} images in each range,"
        f" {_over(cell.seeds)}{full}{numerics}{alike}; budget {budgets}; protocol {protocol['name']} `{protocol['hash']}`."
    )


def _shared(cells: Sequence[Evaluation]) -> list[str]:
    words = [word for word in cells[0].overrides if all(word in c.overrides for c in cells)]
    return [word for word in words if not word.startswith(_SAID)]


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
