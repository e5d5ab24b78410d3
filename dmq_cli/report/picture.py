"""samples.png of a table: the same noise through every cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dmq_cli.report.tables import order, own_overrides, read_cells, telling_bits, varied
from dmq_cli.results.naming import with_overrides
from dmq_cli.results.record import Evaluation
from dmq_cli.store.files import aside

_MOST_ROWS = 12  # of a picture that shows every cell


def picture(folder: Path) -> Path | None:
    """Write samples.png: full precision and every finished cell from the same noise, where the images are at hand.

    Of more than 12 cells, only those at the bits where the methods' distances differ most.
    Not for a table over settings of one method, whose rows look alike. A picture that is there is kept
    where images of a cell are missing: it may have been made where all of them were.
    """
    from dmq_cli.results.images import are_pictures, grid

    path = folder / "samples.png"
    cells = sorted(read_cells(folder), key=order)
    rows = _rows(cells, folder.parents[1] / "artifacts")
    if not rows or varied(cells) or not all(map(are_pictures, rows.values())):
        return None
    if len(rows) <= len(_shown(cells)) and path.exists():
        return None
    with aside(path) as scratch:
        grid(rows).save(scratch, format="PNG")
    return path


def _shown(cells: Sequence[Evaluation]) -> dict[str, Evaluation]:
    """The cells that have a row, by its name."""
    named = zip(cells, own_overrides(cells), strict=True)
    rows = {with_overrides(f"{cell.method} {cell.bits}", words): cell for cell, words in named}
    if len(rows) <= _MOST_ROWS:
        return rows
    bits = telling_bits(cells)
    return {name: cell for name, cell in rows.items() if cell.bits == bits}


def _rows(cells: Sequence[Evaluation], artifacts: Path) -> dict[str, Any]:
    """The images of each cell that has a row, as far as they are on this machine; those of full precision first."""
    from dmq_cli.results.images import load_images

    rows: dict[str, Any] = {}
    for name, cell in _shown(cells).items():
        first = cell.seeds[0]
        full, quantized = (artifacts / s / cell.artifacts.get(f"{s}-{first}", "-") for s in ("sample_fp", "sample"))
        if full.is_dir() and quantized.is_dir():
            rows.setdefault("full precision", load_images(full))
            rows[name] = load_images(quantized)
    return rows
