"""`python -m dmq_cli.report NAME` writes outputs/tables/NAME/table.md and samples.png from the finished cells of a table;
`python -m dmq_cli.report --readme` puts every table that README.md has a place for into it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from dmq_cli.guard import guarded
from dmq_cli.report.readme import fill, picture, write
from dmq_cli.report.tables import table


@click.command()
@click.argument("names", nargs=-1)
@click.option("--readme", is_flag=True, help="Put the tables into README.md.")
@click.option("--outputs", type=click.Path(path_type=Path), default=Path("outputs"), show_default=True)
def main(names: tuple[str, ...], readme: bool, outputs: Path) -> None:
    """Write the Markdown and the picture of the tables NAMES from their finished cells."""
    for name in names:
        folder = outputs / "tables" / name
        write(folder / "table.md", table(folder) + "\n")
        click.echo(table(folder))
        shown = picture(folder)
        click.echo(f"\nReport: {folder}/ (table.md{', samples.png' if shown else ''})")
    if readme:
        file = Path("README.md")
        write(file, fill(file.read_text(encoding="utf-8"), outputs / "tables"))


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(standalone_mode=False)))
