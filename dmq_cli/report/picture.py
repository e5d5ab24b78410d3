"""samples.png of a table: the same noise through every cell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dmq_cli.report.tables import order, own_overrides, read_cells, telling_bits, varied
from dmq_cli.results.naming import with_overrides
from dmq_cli.store.files import aside

_MOST_ROWS = 12  # of a picture that shows every cell


def picture(folder: Path) -> Path | None:
    """Write samples.png: full precision and every finished cell from the same noise, where the images are at hand.

    Of more than 12 cells, only those at the bits where the methods' distances differ most.
    Not for a table over settings of one method, whose rows look alike.
    """
    from dmq_cli.results.images import are_pictures, grid, load_images

    rows: dict[str, Any] = {}
    artifacts = folder.parents[1] / "artifacts"
    cells = sorted(read_cells(folder), key=order)
    names: dict[str, str] = {}
    for cell, words in zip(cells, own_overrides(cells), strict=True):
        first = cell.seeds[0]
        full, quantized = (artifacts / s / cell.artifacts.get(f"{s}-{first}", "-") for s in ("sample_fp", "sample"))
        if full.is_dir() and quantized.is_dir():
            rows.setdefault("full precision", load_images(full))
            name = with_overrides(f"{cell.method} {cell.bits}", words)
            rows[name], names[name] = load_images(quantized), cell.bits
    if not rows or varied(cells) or not all(map(are_pictures, rows.values())):
        return None
    if len(cells) > _MOST_ROWS:
        bits = telling_bits(cells)
        rows = {name: images for name, images in rows.items() if names.get(name, bits) == bits}
    with aside(folder / "samples.png") as scratch:
        grid(rows).save(scratch, format="PNG")
    return folder / "samples.png"
