"""Filter and sort the rows of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from dmq_cli import choices
from dmq_cli.errors import ConfigError, nearest

ListedRows = list[dict[str, Any]]


@dataclass(frozen=True)
class Wanted:
    """sort: a column or a number; reverse: greatest first; last: how many of the newest; failed: only what failed."""

    sort: str | None
    reverse: bool
    last: int | None
    failed: bool

    def check(self, what: str, columns: Sequence[str], filters: Sequence[str]) -> None:
        """Raise ConfigError for a column that the list does not have. filters: words COLUMN=VALUE; a dotted one is an override."""
        for word in filters:
            key, equals, _ = word.partition("=")
            if not equals:
                raise ConfigError(
                    f"The list of {what} was given {word}, which is no COLUMN=VALUE.{nearest(word, columns)}"
                )
            if key not in columns and not ("." in key and "overrides" in columns):
                raise ConfigError(f"The list of {what} has no column {key}.{nearest(key, columns)}")
        if self.sort is not None and self.sort not in columns:
            numbers = _numbers() if "numbers" in columns else {}
            if self.sort not in numbers:
                raise ConfigError(
                    f"The list of {what} has no column {self.sort}.{nearest(self.sort, [*columns, *numbers])}"
                )
        for flag, is_set, column in (("--failed", self.failed, "state"), ("--last", self.last, "time")):
            if is_set and column not in columns:
                raise ConfigError(f"The list of {what} has no {column}, so {flag} means nothing there; leave it out.")

    def of(self, rows: ListedRows, filters: Sequence[str]) -> ListedRows:
        """Select the rows that fit, in order; those without the value to sort by come last."""
        listed = [row for row in rows if all(_fits(row, word) for word in filters)]
        if self.failed:
            listed = [row for row in listed if _state(row) in ("failed", "broken")]
        listed = listed[-self.last :] if self.last else listed
        if self.sort is None:
            return listed[::-1] if self.reverse else listed
        values = [(_value(row, self.sort), row) for row in listed]
        with_value = sorted(
            [pair for pair in values if pair[0] is not None], key=lambda pair: _order(pair[0]), reverse=self.reverse
        )
        return [row for _, row in [*with_value, *(pair for pair in values if pair[0] is None)]]


def _numbers() -> dict[str, str]:
    """Keys of numbers, with their headings in some protocol."""
    headings = {key: name for protocol in choices.protocols() for key, name in protocol.get("columns", {}).items()}
    return {**headings, **{name: name for name in headings.values()}, "psnr": "PSNR", "PSNR": "PSNR"}


def _fits(row: dict[str, Any], word: str) -> bool:
    """Whether a row has one of the values: a list, among its entries; `state`, by its first word."""
    key, _, value = word.partition("=")
    if key not in row:
        return word in row["overrides"]
    row_values = [_state(row)] if key == "state" else row[key] if isinstance(row[key], list) else [row[key]]
    patterns = [value] if isinstance(row[key], list) else value.split(",")
    return any(fnmatchcase(_text(row_value), pattern) for row_value in row_values for pattern in patterns)


def _state(row: dict[str, Any]) -> str:
    return str(row["state"]).partition(":")[0]


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _value(row: dict[str, Any], column: str) -> Any:
    """The value to sort a row by: of a column, else of a number by its key or its heading."""
    if column in row and column != "numbers":
        return row[column] if row[column] not in ("", [], None) else None
    return row.get("measured", {}).get(column, row.get("numbers", {}).get(column))


def _order(value: Any) -> tuple[bool, Any]:
    """Make a sort key that puts numbers before texts."""
    number = isinstance(value, int | float)
    return (not number, value if number else " ".join(value) if isinstance(value, list) else str(value))
