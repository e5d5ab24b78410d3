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
    made = view(table, scale, outputs / "tables", traced, pairs)
    if pairs.used:
        write_json(folder / DIFFERENCES, pairs.used)
    text = markdown(made)
    for file, content in (("table.md", text), ("table.csv", as_csv(made)), ("table.tex", latex(made))):
        write_text(folder / file, content)
    write_json(folder / "table.json", summary(made))
    return folder, text


def _pairs(folder: Path, outputs: Path) -> Pairs:
    """Differences of cells: those kept in the folder, so that the table can be judged where the artifacts are not, or made anew."""
    file, evaluated = folder / DIFFERENCES, outputs / "artifacts" / "evaluate"
    return Pairs(lambda key: _whole(evaluated / key), read_json(file) if file.is_file() else None)


def _whole(folder: Path) -> Path:
    """An artifact's folder after a look at its hashes, if it is here. Raises ArtifactCorruptError."""
    if folder.is_dir():
        check_artifact(folder, folder.parent.name, folder.name)
    return folder


def summary(made: View) -> dict[str, Any]:
    """What the overview shows of a table."""
    own = {"name": made.name, "scale": made.scale, "title": marked(made)}
    return {**own, "states": dict(made.states), "claims": [f"{one.says}: {one.short}" for one in made.claims]}


def _traced(table: PaperTable, folder: Path, artifacts: Path) -> dict[str, dict[str, Any]]:
    """Statistics of the traces of a figure's cells, by artifact; read once and kept in folder/traces.json."""
    if not any("trace" in claim for claim in table.claims):
        return {}
    file = folder / "traces.json"
    known: dict[str, dict[str, Any]] = read_json(file) if file.is_file() else {}
    keys = sorted({_trace_of(cell) for cell in cells(folder)} - {""})
    found = {key: known[key] for key in keys if key in known}
    found |= {
        key: traces.statistics(_whole(artifacts / key))
        for key in keys
        if key not in known and (artifacts / key).is_dir()
    }
    if found != known:
        write_json(file, found)
    return found


def _trace_of(cell: Evaluation) -> str:
    return cell.artifacts.get("trace", "")
