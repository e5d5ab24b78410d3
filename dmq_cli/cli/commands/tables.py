"""What `dmq table NAME` writes from the finished cells: outputs/tables/NAME/table.md and samples.png, of a paper's table what is
printed beside what is measured, as CSV and LaTeX, too, and report.html, the page of `dmq report NAME`.

`python -m dmq_cli.cli.commands.tables NAME` writes them without filling the table; `--overview` writes outputs/tables/README.md of all
papers' tables; `--matched` writes conf/table/matched.csv (papers/matched.py); `--docs` makes the generated parts of README.md and docs/ anew (cli/documents.py).
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from dmq_cli.printing import printable
from dmq_cli.sentences import guarded


@click.command()
@click.argument("names", nargs=-1)
@click.option("--docs", is_flag=True, help="Make the generated parts of README.md and docs/ anew.")
@click.option("--scale", default="paper", show_default=True, help="Of the papers' tables: paper or digits.")
@click.option("--overview", is_flag=True, help="Write outputs/tables/README.md of the papers' tables.")
@click.option("--matched", is_flag=True, help="Write conf/table/matched.csv from the cells of the table widths.")
@click.option("--outputs", type=click.Path(path_type=Path), default=Path("outputs"), show_default=True)
def main(names: tuple[str, ...], docs: bool, scale: str, overview: bool, matched: bool, outputs: Path) -> None:
    """Write the tables NAMES from their finished cells: Markdown and a picture, of a paper's table CSV and LaTeX, too."""
    write_tables(names, scale, outputs)
    if matched:
        _matched(outputs / "tables")
    if overview:
        from dmq_cli import papers

        click.echo(printable(papers.overview(outputs)))
    if docs:
        _documents(outputs / "tables")


def _matched(tables: Path) -> None:
    from dmq_cli.papers.matched import as_csv, curves, file, match
    from dmq_cli.store.files import write_text

    write_text(file(), as_csv(match(curves(tables))))


def _documents(tables: Path) -> None:
    """README.md and docs/ of the checkout that is the working folder, and the pictures in docs/images/, called after their tables."""
    from dmq_cli.cli.documents import documents, fill
    from dmq_cli.store.files import write_text

    for file in documents(Path.cwd()):
        write_text(file, fill(file.read_text(encoding="utf-8"), tables))
    for image in Path("docs/images").glob("*.png"):
        shutil.copyfile(tables / image.stem / "samples.png", image)


def write_tables(names: Iterable[str], scale: str, outputs: Path) -> None:
    """Write these tables from their finished cells. scale: of the papers' tables. Raises ConfigError where there are no cells."""
    from dmq_cli import papers

    of_papers = papers.names()
    for name in names:
        (_paper if name in of_papers else _write_own)(name, scale, outputs)


def _write_own(name: str, scale: str, outputs: Path) -> None:
    """A table of dmq's own; it has no scale."""
    from dmq_cli.report.picture import picture
    from dmq_cli.report.tables import table
    from dmq_cli.store.files import write_text

    folder = outputs / "tables" / name
    write_text(folder / "table.md", table(folder) + "\n")
    click.echo(printable(table(folder)))
    shown = picture(folder)
    click.echo(printable(f"\nReport: {folder}/ (table.md{', samples.png' if shown else ''}{_page(folder)})"))


def _paper(name: str, scale: str, outputs: Path) -> None:
    from dmq_cli import papers

    folder, text = papers.write_table(name, scale, outputs)
    click.echo(printable(f"{text}\nReport: {folder}/ (table.md, table.csv, table.tex{_page(folder)})"))


def _page(folder: Path) -> str:
    """Write report.html about the finished cells, and say so; nothing where there are none."""
    from dmq_cli.report.html import write_report
    from dmq_cli.results.record import metrics_files
    from dmq_cli.results.runs import load_results

    if not metrics_files(folder):
        return ""
    write_report(load_results([str(folder)], folder.parents[1]), folder / "report.html")
    return ", report.html"


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(standalone_mode=False)))
