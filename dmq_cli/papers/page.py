"""Writes a paper's table beside its cells: table.md, table.csv, table.tex, and table.json for the overview."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmq_cli.papers import traces
from dmq_cli.papers.cells import cells
from dmq_cli.papers.runnable import folder_name
from dmq_cli.papers.transcript import PaperTable, check_scale, paper_table
from dmq_cli.papers.views import View, view
from dmq_cli.papers.writing import as_csv, latex, markdown, marked
from dmq_cli.results.pairs import Pairs
from dmq_cli.results.record import Evaluation
from dmq_cli.store import check_artifact, read_json, write_json
from dmq_cli.store.files import write_text

DIFFERENCES = "differences.json"


def write_table(name: str, scale: str, outputs: Path) -> tuple[Path, str]:
    """Write the table `name` at this scale and return its folder and its Markdown.

    Raises ConfigError for an unknown table or scale, and for cells that cannot share a column.
    """
    table = paper_table(name)
    folder = outputs / "tables" / folder_name(name, check_scale(scale))
    traced, pairs = _traced(table, folder, outputs / "artifacts" / "trace"), _pairs(folder, outputs)
    table_view = view(table, scale, outputs / "tables", traced, pairs)
    _keep(pairs, folder / DIFFERENCES)
    text = markdown(table_view)
    for file, content in (("table.md", text), ("table.csv", as_csv(table_view)), ("table.tex", latex(table_view))):
        write_text(folder / file, content)
    write_json(folder / "table.json", summary(table_view))
    return folder, text


def _pairs(folder: Path, outputs: Path) -> Pairs:
    """Make the differences of cells, computed from artifacts or, where these are gone, read from the table's folder."""
    file, evaluated = folder / DIFFERENCES, outputs / "artifacts" / "evaluate"
    return Pairs(lambda key: _whole(evaluated / key), read_json(file) if file.is_file() else None)


def _keep(pairs: Pairs, file: Path) -> None:
    """Keep the differences that the table stands on, and no earlier ones."""
    if pairs.used:
        write_json(file, pairs.used)
    else:
        file.unlink(missing_ok=True)


def _whole(folder: Path) -> Path:
    """Check the hashes of an artifact, if it is on this machine, and return its folder. Raises ArtifactCorruptError."""
    if folder.is_dir():
        check_artifact(folder, folder.parent.name, folder.name)
    return folder


def summary(table_view: View) -> dict[str, Any]:
    """Summarise a table for the overview: its title, states of rows and outcomes of claims."""
    labels = {"name": table_view.name, "scale": table_view.scale, "title": marked(table_view)}
    return {
        **labels,
        "states": dict(table_view.states),
        "claims": [f"{claim.says}: {claim.short}" for claim in table_view.claims],
    }


def _traced(table: PaperTable, folder: Path, artifacts: Path) -> dict[str, dict[str, Any]]:
    """Statistics of the traces of a figure's cells, by artifact; computed once and kept in folder/traces.json.

    Those that were kept before ranges were held against timesteps are computed again where the artifact is there.
    """
    if not any("trace" in claim for claim in table.claims):
        return {}
    file = folder / "traces.json"
    stored: dict[str, dict[str, Any]] = read_json(file) if file.is_file() else {}
    keys = sorted({_trace_of(cell) for cell in cells(folder)} - {""})
    statistics = {key: stored[key] for key in keys if key in stored}
    statistics |= {
        key: traces.statistics(_whole(artifacts / key))
        for key in keys
        if "with_time" not in stored.get(key, {}) and (artifacts / key).is_dir()
    }
    if statistics != stored:
        write_json(file, statistics)
    return statistics


def _trace_of(cell: Evaluation) -> str:
    return cell.artifacts.get("trace", "")
