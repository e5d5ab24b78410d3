"""One self-contained HTML page about one or several runs: opens offline, loads nothing from elsewhere, runs no script."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import jinja2

import dmq_cli
from dmq_cli.report import heading
from dmq_cli.report.figures.style import Kind, looks
from dmq_cli.report.measured import MeasuredRow, measured_costs
from dmq_cli.report.result_table import SECONDS, CostRow, Table, by_protocol, costs, result_table
from dmq_cli.report.sections import Section, sections
from dmq_cli.report.statement import statement
from dmq_cli.results.runs import Result, flatten, labels
from dmq_cli.results.verdict import lower_is_better
from dmq_cli.store import digest
from dmq_cli.store.files import write_text

MOST_DRAWN = 6
_NOTE = (
    "Below a number stand its deviation over seed ranges (±) or its 95 % interval [low, high], then the difference to full"
    " precision (on the same seeds where that is known) and whether that is inside the noise of the two; where one of the two"
    " has no interval, only the difference."
    " ↓: lower is better, ↑: higher is better; the best of each column is bold."
)  # fmt: skip


@dataclass(frozen=True)
class Page:
    """What the template shows, in its order. in_full: short names and what they stand for; records: titles with pairs of keys
    and values.
    """

    title: str
    subtitle: str
    days: list[str]
    in_full: list[tuple[str, str]]
    statements: list[str]
    tables: list[Table]
    reading: str
    costs: list[CostRow]
    measured: list[MeasuredRow]
    seconds: list[str]
    left_out: str
    sections: list[Section]
    missing: list[tuple[str, str]]
    commands: list[tuple[str, str]]
    records: list[tuple[str, list[tuple[str, Any]]]]
    configurations: list[tuple[str, str]]


def write_report(results: Sequence[Result], file: Path) -> Page:
    """Write the page about these runs, aside and renamed, and return what it shows. Raises ArtifactCorruptError, DiskError."""
    page = page_of(results)
    write_text(file, render("report.html.j2", page=page))
    return page


def default_file(results: Sequence[Result], names: Sequence[str], outputs: Path) -> Path:
    """report.html in the folder of a single run; otherwise below outputs/reports, named after what was asked for."""
    if len(results) == 1 and results[0].is_run:
        return results[0].folder / "report.html"
    if len(names) == 1:
        return outputs / "reports" / f"{Path(names[0]).name}.html"
    return outputs / "reports" / f"{digest([str(result.folder.absolute()) for result in results], 8)}.html"


def page_of(results: Sequence[Result]) -> Page:
    """Everything on the page. Of many runs, only the best few are drawn; all are in the tables."""
    named = dict(zip(labels(results), results, strict=True))
    groups = by_protocol({label: run for label, run in named.items() if run.evaluation.headline})
    sampled = {label: run for label, run in named.items() if not run.evaluation.headline}
    ordered = {label: run for group in groups for label, run in group.items()} | sampled
    drawn = dict(list((_drawn(groups) | sampled).items())[:MOST_DRAWN])
    kinds = {label: Kind(run.evaluation.method, run.evaluation.bits) for label, run in ordered.items()}
    run_looks = looks({label: kinds[label] for label in drawn}, kinds)
    all_sections = sections(drawn, groups, run_looks)
    left_out = "" if len(drawn) == len(ordered) else _left_out(len(drawn), len(ordered))
    return Page(
        title=heading.title(ordered),
        subtitle=heading.subtitle(ordered),
        days=heading.days(ordered),
        in_full=heading.in_full(ordered),
        statements=[statement(group) for group in groups],
        tables=[result_table(group) for group in groups],
        reading=_NOTE,
        costs=costs(ordered),
        measured=measured_costs(ordered),
        seconds=SECONDS,
        left_out=left_out,
        sections=[section for section in all_sections if section.shows],
        missing=_missing(all_sections),
        commands=[(label, run.evaluation.command) for label, run in ordered.items()],
        records=[*_protocols(groups), *_environments(drawn)],
        configurations=[
            (f"Configuration of {label}", json.dumps(run.config, indent=1)) for label, run in drawn.items()
        ],
    )


def render(template: str, **values: Any) -> str:
    """A template of this package with what it shows; everything that is not markup already is escaped; dated today."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("dmq_cli.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(template).render(
        version=dmq_cli.__version__, today=date.today().isoformat(), **values
    )


def _missing(all_sections: Sequence[Section]) -> list[tuple[str, str]]:
    """Titles of sections that show nothing, and why; those with the same reason together."""
    reasons: dict[str, list[str]] = {}
    for section in all_sections:
        if not section.shows:
            reasons.setdefault(" ".join(section.absent), []).append(section.title)
    return [("; ".join(titles), reason) for reason, titles in reasons.items()]


def _drawn(groups: Sequence[Mapping[str, Result]]) -> dict[str, Result]:
    """At most six runs: those with the best distances of each group, in the order of the tables."""
    ordered = {label: run for group in groups for label, run in group.items()}
    ranks = {
        label: rank for group in groups for rank, label in enumerate(sorted(group, key=lambda k: _distance(group[k])))
    }
    best = sorted(ordered, key=lambda label: ranks[label])[:MOST_DRAWN]
    return {label: run for label, run in ordered.items() if label in best}


def _distance(result: Result) -> float:
    headline = result.evaluation.headline
    number = None if headline is None else result.evaluation.number(*headline)
    if headline is None or number is None:
        return math.inf
    return number.value if lower_is_better(headline[1]) else -number.value


def _left_out(drawn: int, total: int) -> str:
    return f"The images and figures below show the {drawn} of {total} runs with the best distances; name fewer runs to see others."


def _protocols(groups: Sequence[Mapping[str, Result]]) -> list[tuple[str, list[tuple[str, Any]]]]:
    records = {run.evaluation.protocol["hash"]: run.evaluation.protocol for group in groups for run in group.values()}
    return [
        (f"Protocol {record['name']} ({key})", list(flatten(dict(record)).items())) for key, record in records.items()
    ]


def _environments(runs: Mapping[str, Result]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Each environment once, with the runs it was that of."""
    by_content: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for label, run in runs.items():
        environment = run.manifest.get("environment", {})
        by_content.setdefault(json.dumps(environment, sort_keys=True), ([], environment))[0].append(label)
    return [
        (f"Environment of {', '.join(names)}", list(flatten(settings).items()))
        for names, settings in by_content.values()
    ]
