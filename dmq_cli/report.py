"""From metrics.json files to what people read: a summary in the terminal, files of tables, the README's numbers.

`python -m dmq_cli.report NAME` writes outputs/tables/NAME/table.md and samples.png from the finished cells of a table;
`python -m dmq_cli.report --readme` puts every table that README.md has a place for into it.
"""

from __future__ import annotations

import re
import statistics
from pathlib import Path
from typing import Any

import click

from dmq_cli.store import read_json
from dmq_cli.store.files import aside
from dmq_cli.tables import is_random, number, order, telling_bits, varied
from dmq_cli.tables import table as table

_PLACE = re.compile(r"<!-- table (?P<name>[\w-]+)(?: (?P<bits>\w+))? -->\n.*?<!-- end of table -->", re.DOTALL)
_MOST_ROWS = 12  # of a picture that shows every cell


def describe(found: dict[str, Any]) -> str:
    """A few lines about the result of a verb."""
    if "plan" in found:
        return _plan(found["plan"])
    if "quantized" in found:
        return _evaluation(found)
    return "\n".join(f"{name}: {path}" for name, path in found.get("artifacts", {}).items())


def picture(folder: Path) -> Path | None:
    """Write samples.png: full precision and every finished cell from the same noise, where the images are at hand.

    Of more than 12 cells, only those at the bits where the methods' distances differ most.
    Not for a table over settings of one method, whose rows look alike.
    """
    from dmq_cli.stages.images import grid, load_images

    rows: dict[str, Any] = {}
    artifacts = folder.parents[1] / "artifacts"
    cells = sorted((read_json(file) for file in folder.glob("*/metrics.json")), key=order)
    for cell in cells:
        first = cell["seeds"][0]
        full, own = (artifacts / s / cell["artifacts"].get(f"{s}-{first}", "-") for s in ("sample_fp", "sample"))
        if full.is_dir() and own.is_dir():
            rows.setdefault("full precision", load_images(full))
            rows[f"{cell['method']} {cell['bits']}"] = load_images(own)
    if not rows or varied(cells):
        return None
    if len(cells) > _MOST_ROWS:
        kept = telling_bits(cells)
        rows = {name: images for name, images in rows.items() if name == "full precision" or name.endswith(f" {kept}")}
    grid(rows).save(folder / "samples.png")
    return folder / "samples.png"


def fill(text: str, tables: Path) -> str:
    """README text with the generated table at every `<!-- table NAME -->`, or its rows at some bits: `<!-- table NAME BITS -->`."""

    def generated(match: re.Match[str]) -> str:
        head = match[0].partition("\n")[0]
        return f"{head}\n{table(tables / match['name'], match['bits'])}\n<!-- end of table -->"

    return _PLACE.sub(generated, text)


def _write(file: Path, text: str) -> None:
    with aside(file) as scratch:
        scratch.write_text(text, encoding="utf-8")


def _evaluation(found: dict[str, Any]) -> str:
    random = " (random weights)" if is_random(found) else ""
    head = f"{found['model']}{random} {found['method']} {found['bits']}, {found['num_images']} images, seeds {', '.join(found['seeds'])}"
    lines = [head + (f" (fp: {', '.join(found['fp_seeds'])})" if "fp_seeds" in found else "")]
    for key, name in found["protocol"]["columns"].items():
        if key not in found["fp"]:  # agreement, where nothing was asked for
            continue
        lines.append(f"  {name:12s} fp {number(found['fp'], key)}   quantized {number(found['quantized'], key)}")
    lines.append(f"  {'PSNR to fp':12s} {number(found['paired'], 'psnr')} dB")
    lines.append(f"  {'policy':12s} {_policy(found['policy'])}")
    return "\n".join([*lines, f"  run: {found.get('run', 'a finished cell of the table')}"])


def _policy(bits: dict[str, int]) -> str:
    """The layer policy in one line: the width of most sites, and every label that differs from its kind."""
    kinds: dict[str, dict[str, int]] = {"weights": {}, "activations": {}}
    for label, width in bits.items():
        kinds["weights" if label.endswith(".weight") else "activations"][label] = width
    parts = []
    for kind, widths in kinds.items():
        most = statistics.mode(widths.values())
        others = ", ".join(f"{label} {width}" for label, width in widths.items() if width != most)
        parts.append(f"{kind} {most} bits" + (f" but {others}" if others else ""))
    return "; ".join(parts)


def _plan(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'stage':13s}{'seeds':16s}{'key':10s}{'state':12s}{'estimate':>10s}  why"]
    for row in rows:
        estimate = "" if row["seconds"] is None else f"{row['seconds']:.0f} s"
        state = "cached" if row["cached"] else "to compute"
        lines.append(f"{row['stage']:13s}{row['seeds']:16s}{row['key']:10s}{state:12s}{estimate:>10s}  {row['why']}")
    return "\n".join(lines)


@click.command()
@click.argument("names", nargs=-1)
@click.option("--readme", is_flag=True, help="Put the tables into README.md.")
@click.option("--outputs", type=click.Path(path_type=Path), default=Path("outputs"), show_default=True)
def main(names: tuple[str, ...], readme: bool, outputs: Path) -> None:
    """Write the Markdown and the picture of the tables NAMES from their finished cells."""
    for name in names:
        folder = outputs / "tables" / name
        _write(folder / "table.md", table(folder) + "\n")
        click.echo(table(folder))
        shown = picture(folder)
        click.echo(f"\nReport: {folder}/ (table.md{', samples.png' if shown else ''})")
    if readme:
        file = Path("README.md")
        _write(file, fill(file.read_text(encoding="utf-8"), outputs / "tables"))


if __name__ == "__main__":
    import sys

    from dmq_cli.guard import guarded

    sys.exit(guarded(lambda: main(standalone_mode=False)))
