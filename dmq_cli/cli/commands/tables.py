"""`python -m dmq_cli.cli.commands.tables NAME` writes outputs/tables/NAME/table.md and samples.png from the finished cells of a table, of a
paper's table what is printed beside what is measured (--scale digits: on the embedded models); `--overview` writes
outputs/tables/README.md of all of these; `--docs` makes the generated parts of README.md and docs/ anew (report/documents.py). A
table with finished cells also gets report.html, the page that `dmq report NAME` writes.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from dmq_cli import papers
from dmq_cli.printing import printable
from dmq_cli.report.documents import documents, fill
from dmq_cli.report.html import write_report
from dmq_cli.report.picture import picture
from dmq_cli.report.tables import table
from dmq_cli.results.runs import load_results
from dmq_cli.sentences import guarded
from dmq_cli.store.files import write_text


@click.command()
@click.argument("names", nargs=-1)
@click.option("--docs", is_flag=True, help="Make the generated parts of README.md and docs/ anew.")
@click.option("--scale", default="paper", show_default=True, help="Of the papers' tables: paper or digits.")
@click.option("--overview", is_flag=True, help="Write outputs/tables/README.md of the papers' tables.")
@click.option("--outputs", type=click.Path(path_type=Path), default=Path("outputs"), show_default=True)
def main(names: tuple[str, ...], docs: bool, scale: str, overview: bool, outputs: Path) -> None:
    """Write the tables NAMES from their finished cells: Markdown and a picture, of a paper's table CSV and LaTeX, too."""
    of_papers = papers.names()
    for name in names:
        (_paper if name in of_papers else _own)(name, scale, outputs)
    if overview:
        click.echo(printable(papers.overview(outputs)))
    if docs:
        _documents(outputs / "tables")


def _documents(tables: Path) -> None:
    """README.md and docs/ of the checkout that is the working folder, and the pictures in docs/images/, called after their tables."""
    for file in documents(Path.cwd()):
        write_text(file, fill(file.read_text(encoding="utf-8"), tables))
    for image in Path("docs/images").glob("*.png"):
        shutil.copyfile(tables / image.stem / "samples.png", image)


def _own(name: str, scale: str, outputs: Path) -> None:
    """A table of dmq's own; it has no scale."""
    folder = outputs / "tables" / name
    write_text(folder / "table.md", table(folder) + "\n")
    click.echo(printable(table(folder)))
    shown = picture(folder)
    click.echo(printable(f"\nReport: {folder}/ (table.md{', samples.png' if shown else ''}{_page(folder)})"))


def _paper(name: str, scale: str, outputs: Path) -> None:
    folder, text = papers.write_table(name, scale, outputs)
    click.echo(printable(f"{text}\nReport: {folder}/ (table.md, table.csv, table.tex{_page(folder)})"))


def _page(folder: Path) -> str:
    """Write report.html about the finished cells, and say so; nothing where there are none."""
    if not any(folder.glob("*/metrics.json")):
        return ""
    write_report(load_results([str(folder)], folder.parents[1]), folder / "report.html")
    return ", report.html"


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(standalone_mode=False)))
