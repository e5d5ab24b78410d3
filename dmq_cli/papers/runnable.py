"""Turn the rows of a paper's table into the jobs that measure them, or say why a row cannot be measured here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from dmq_cli import choices, obtain
from dmq_cli.errors import ConfigError, nearest
from dmq_cli.overrides.bits import is_width
from dmq_cli.papers.matched import matched_row
from dmq_cli.papers.transcript import PaperTable, Row, check_scale, choice_of, from_section
from dmq_cli.paths import conf_folder

SCALES: Mapping[str, tuple[str, ...]] = {
    "digits": ("budget=light", "seeds=[0-1999]", "fp_seeds=[0-1999,10000-11999,20000-21999]"),
    "paper": ("budget=paper", "seeds=[0-49999]", "protocol.reference_path=null"),
}
"""The overrides at the end of every row: 2,000 images and full precision three times; or the papers' 50,000 images, and a
reference that is found by its name (`dmq reference build --as NAME`).
"""


def jobs(table: Mapping[str, Any], scale: str) -> list[list[str]]:
    """The overrides of every row that can be measured on this machine, each different list once.

    table: the section `table` of a configuration; scale: paper or digits, which has rows at matched widths, too. Rows that `blocked`
    gives a reason for are left out.
    Raises ConfigError for an unknown scale, and for a method or another choice that does not exist.
    """
    paper, scale = from_section(table), check_scale(scale)
    rows = [row for row in paper.rows if row.overrides[scale] and not blocked(paper, row, scale)]
    at_matched = [row for row in (matched_row(paper, row) for row in rows) if row] if scale == "digits" else []
    jobs_of_rows = [job(paper, row, scale) for row in (*rows, *at_matched)]
    return [words for number, words in enumerate(jobs_of_rows) if words not in jobs_of_rows[:number]]


def job(table: PaperTable, row: Row, scale: str) -> list[str]:
    """The words of `dmq evaluate` for a row. Raises ConfigError for a choice that does not exist."""
    words = [*setting(table, row, scale), *SCALES[scale], f"table.name={folder_name(table.name, scale)}"]
    _check_choices(table.name, words)
    sampled = table.verb == "evaluate" and scale == "paper"
    return words + (["runtime.device=cuda"] if sampled and _has_gpu() else [])


def setting(table: PaperTable, row: Row, scale: str) -> list[str]:
    """The overrides of a row without those that all rows end with: model, method, bits, sampler, protocol."""
    return [*table.parts[row.part][scale], *row.overrides[check_scale(scale)]]


def folder_name(name: str, scale: str) -> str:
    """The name of the folder in outputs/tables that holds the cells of a table."""
    return f"{name}-digits" if check_scale(scale) == "digits" else name


def blocked(table: PaperTable, row: Row, scale: str) -> str | None:
    """Say why a row cannot be measured here: "not available: ...", "needs weights: ...", "needs GPU: ..."; None if it can."""
    if row.missing:
        return f"not available: {row.missing}"
    if scale == "digits" or "model.weights=random" in setting(table, row, scale):
        return None
    model = choices.model(str(choice_of(table.parts[row.part][scale], "model")))
    if obtain.missing(model):
        return f"needs weights: {obtain.remedy(model)}"
    if not _has_gpu():
        return "needs GPU: 50,000 images by a network of this size are weeks of CPU time; run it where torch finds CUDA"
    return None


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _check_choices(table: str, words: Iterable[str]) -> None:
    """Check that every word that chooses a file of conf/ names an existing one. Raises ConfigError."""
    for word in words:
        group, _, value = word.partition("=")
        if group == "bits" and is_width(value):
            continue
        if (conf_folder() / group).is_dir() and value not in choices.names(group):
            raise ConfigError(
                f"The table {table} names {group}={value}, which does not exist.{nearest(value, choices.names(group))}"
            )
