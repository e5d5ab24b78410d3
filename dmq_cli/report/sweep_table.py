"""The jobs of a sweep, ranked by their first number: for the terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmq_cli.errors import ArtifactCorruptError, ConfigError, nearest
from dmq_cli.metrics.shown import of_twins
from dmq_cli.report.result_table import caption
from dmq_cli.results.record import Evaluation, Number, read_evaluation
from dmq_cli.results.standing import grouped
from dmq_cli.results.sweeps import Records
from dmq_cli.results.verdict import lower_is_better, with_noise

_ALWAYS = ("psnr", "ssim", "lpips")


@dataclass(frozen=True)
class Ranked:
    """A sweep. columns: side and name of every number, first the one it is ranked by; failed: words of the jobs without numbers, by
    the reason; groups: words and numbers of the others, the best first, those apart that cannot be compared (`results.standing`).
    """

    name: str
    columns: list[tuple[str, str]]
    groups: list[list[tuple[str, Evaluation]]]
    failed: dict[str, list[str]]


def ranked(outputs: Path, name: str) -> Ranked:
    """Read the records of a sweep below outputs/sweeps, and rank its jobs. Raises ConfigError for an unknown name."""
    folder = outputs / "sweeps" / name
    files = sorted(folder.glob("*.json"))
    if not files:
        sweeps = sorted(path.name for path in (outputs / "sweeps").glob("*") if path.is_dir())
        raise ConfigError(f"There is no sweep {name} in {outputs / 'sweeps'}.{nearest(name, sweeps)}")
    records = Records(outputs, name)
    measured: list[tuple[list[str], Evaluation]] = []
    failed: dict[str, list[str]] = {}
    for file in files:
        record = records.read(file.stem) or {}
        words = [word for word in record.get("overrides", []) if not word.startswith(("stage=", "runtime.", "store."))]
        evaluation, reason = _evaluation(records, record)
        if evaluation is not None:
            measured.append((words, evaluation))
        else:
            failed.setdefault(reason, []).append(" ".join(words))
    columns = _columns([evaluation for _, evaluation in measured])
    jobs = [(_label(words, [other_words for other_words, _ in measured]), evaluation) for words, evaluation in measured]
    groups = [sorted(group, key=lambda job: _rank(job[1], columns)) for group in grouped(jobs)]
    return Ranked(name, columns, groups, failed)


def as_lines(sweep: Ranked) -> list[list[str]]:
    """Write the rank, the label and the numbers with their noise of every job, and, of several groups, what each was measured by;
    headings first.
    """
    several = len(sweep.groups) > 1
    rows = [["", "job", *(_heading(sweep, *column) for column in sweep.columns), *(["measured"] if several else [])]]
    for place, label, evaluation in _placed(sweep):
        numbers = [(key, evaluation.number(side, key)) for side, key in sweep.columns]
        texts = ["" if number is None else with_noise(number, key) for key, number in numbers]
        rows.append([str(place), label, *texts, *([caption(evaluation)] if several else [])])
    return rows


def as_csv(sweep: Ranked) -> str:
    """Write a line for each job: its words, and for each number the value and both ends of its 95 % interval."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"{side}.{name}{end}" for side, name in sweep.columns for end in ("", ".low", ".high")]
    writer.writerow(["rank", "model", "method", "bits", "job", *heads, "measured"])
    for place, label, evaluation in _placed(sweep):
        fields = [field for column in sweep.columns for field in _fields(evaluation.number(*column))]
        names = (evaluation.model, evaluation.method, evaluation.bits)
        writer.writerow([place, *names, label, *fields, caption(evaluation)])
    return text.getvalue()


def _placed(sweep: Ranked) -> Iterator[tuple[int, str, Evaluation]]:
    """Rank, label and evaluation of every job; each group has its own ranking."""
    for group in sweep.groups:
        for place, (label, evaluation) in enumerate(group, 1):
            yield place, label, evaluation


def _heading(sweep: Ranked, side: str, key: str) -> str:
    """The heading of a number, in the protocol or by its metric."""
    names = {**of_twins(), **(sweep.groups[0][0][1].protocol["columns"] if side == "quantized" else {})}
    return str(names.get(key, key))


def _evaluation(records: Records, record: dict[str, Any]) -> tuple[Evaluation | None, str]:
    """Read the evaluation of a job, or the reason why there is none."""
    if record.get("status") != "done":
        return None, str(record.get("error") or "it was not finished")
    place = record.get("cell") or record.get("run")
    try:
        return read_evaluation(records.outputs / str(place))[0], ""
    except ArtifactCorruptError as error:
        return None, str(error)


def _columns(evaluations: Sequence[Evaluation]) -> list[tuple[str, str]]:
    """List the protocols' columns, and the comparisons with full precision, where any job has them."""
    shown = [
        ("quantized", key)
        for evaluation in evaluations
        for key in evaluation.protocol["columns"]
        if key in evaluation.quantized
    ]
    paired = [("paired", key) for key in _ALWAYS for evaluation in evaluations if key in evaluation.paired]
    return list(dict.fromkeys([*shown, *paired]))


def _rank(evaluation: Evaluation, columns: Sequence[tuple[str, str]]) -> tuple[bool, float]:
    number = evaluation.number(*columns[0]) if columns else None
    if number is None:
        return True, 0.0
    return False, number.value if lower_is_better(columns[0][1]) else -number.value


def _label(words: Sequence[str], every: Sequence[Sequence[str]]) -> str:
    """The words that not all jobs have."""
    common = set.intersection(*map(set, every)) if len(every) > 1 else set()
    return " ".join(word for word in words if word not in common) or "the only job"


def _fields(number: Number | None) -> list[str]:
    if number is None:
        return ["", "", ""]
    low, high = number.interval or ("", "")
    return [repr(number.value), str(low), str(high)]
