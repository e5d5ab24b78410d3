"""dmq report, dmq compare: what runs found, as pages to look at."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from dmq_cli.cli.commands.output import HELP, aligned, run, say, show
from dmq_cli.errors import ConfigError
from dmq_cli.sentences import with_flags


def _with_runs(required: int) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Adds the arguments that both commands have."""

    def add(command: Callable[..., Any]) -> Callable[..., Any]:
        place = click.Path(path_type=Path)
        command = click.option(
            "--outputs", type=place, default=Path("outputs"), show_default=True, help="Where tables are."
        )(command)
        command = click.option("--to", "file", type=place, help="The HTML file to write.")(command)
        return click.argument("runs", nargs=-1, metavar=" ".join(["RUN"] * required) + "...")(command)

    return add


@click.command(context_settings=HELP)
@_with_runs(1)
@click.option(
    "--sweep", metavar="NAME", help="Rank the jobs of a sweep instead: a table here, and a CSV file beside its records."
)
@with_flags
@click.pass_context
def report(
    context: click.Context, /, runs: tuple[str, ...], file: Path | None, outputs: Path, sweep: str | None, **flags: bool
) -> None:
    """Write a page about runs: one HTML file that opens offline.

    A run is a run folder, a cell of a table, or the name of a table, which stands for all its finished cells.
    """
    if sweep is not None:
        run(context, flags, lambda on: _sweep(sweep, file, outputs, on))
    run(context, flags, lambda on: _report(runs, file, outputs, on))


@click.command(context_settings=HELP)
@_with_runs(2)
@with_flags
@click.pass_context
def compare(context: click.Context, /, runs: tuple[str, ...], file: Path | None, outputs: Path, **flags: bool) -> None:
    """Say what differs between runs, in configuration and numbers; --to FILE.html also shows the images."""
    run(context, flags, lambda on: _compare(runs, file, outputs, on))


def _sweep(name: str, file: Path | None, outputs: Path, flags: set[str]) -> None:
    from dmq_cli.report.sweep_table import as_csv, as_lines, ranked
    from dmq_cli.store.files import write_text

    sweep = ranked(outputs, name)
    target = (file or outputs / "sweeps" / name / "ranked.csv").expanduser()
    write_text(target, as_csv(sweep))
    rows = as_lines(sweep)
    result = {"sweep": name, "jobs": [dict(zip(rows[0], row, strict=True)) for row in rows[1:]], "failed": sweep.failed}
    reasons = [f"{len(jobs)} without numbers ({'; '.join(jobs)}): {reason}" for reason, jobs in sweep.failed.items()]
    show({**result, "csv": str(target)}, "\n".join([aligned(rows), *reasons, f"CSV: {target}"]), flags)


def _report(names: tuple[str, ...], file: Path | None, outputs: Path, flags: set[str]) -> None:
    if not names:
        raise ConfigError("The command report was given no run; name run folders, cells or tables, or --sweep NAME.")
    say(f"report: reading {', '.join(names)} ...", flags)
    from dmq_cli.report.html import default_file, write_report
    from dmq_cli.results.runs import load_results, whole

    results = load_results(names, outputs)
    target = (file or default_file(results, names, outputs)).expanduser()
    with whole([result.folder for result in results]):
        page = write_report(results, target)
    summary = {
        "report": str(target),
        "bytes": target.stat().st_size,
        "runs": [str(result.folder) for result in results],
        "shown": [section.title for section in page.sections],
        "missing": dict(page.missing),
    }
    show(summary, "\n".join([*page.statements, f"Report: {target}"]), flags)


def _compare(names: tuple[str, ...], file: Path | None, outputs: Path, flags: set[str]) -> None:
    say(f"compare: reading {', '.join(names)} ...", flags)
    from dmq_cli.report.compare import as_json, as_text, compare, write_comparison
    from dmq_cli.results.runs import load_results, whole

    results = load_results(names, outputs)
    with whole([result.folder for result in results]):
        comparison = compare(results)
        if file is not None:
            write_comparison(comparison, file.expanduser())
        text, data = as_text(comparison), as_json(comparison)
    page = {} if file is None else {"page": str(file)}
    show({**data, **page}, text + (f"\n\npage: {file}" if file else ""), flags)
