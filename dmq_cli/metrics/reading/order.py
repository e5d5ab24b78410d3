"""Order images by the names of their files, and assign lines of a list of prompts to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from dmq_cli.errors import EvaluationError

_NUMBER = re.compile(r"([0-9]+)")


def natural(file: PurePath) -> tuple[Any, str]:
    """Make a key to sort paths by: numbers in names of folders and files are compared as numbers, so that 2.png is before 10.png.

    Paths that differ in leading zeros alone (7 and 007) are ordered as text.
    """
    parts = [(_pieces(folder), ()) for folder in file.parts[:-1]]
    return [*parts, (_pieces(file.stem), _pieces(file.suffix))], str(file)


def line_numbers(files: Sequence[PurePath], lines: int, source: str) -> list[int]:
    """Find the line, from 0, of each of N files by the number in its name.

    The number must be at the same place in all names and run from 0 to N - 1 without gaps, or from 1 to N where there are N
    lines. lines: their number; source: where the files are, for errors. Raises EvaluationError where no number does that, or two
    do in different ways.
    """
    columns = list(zip(*([int(n) for n in _NUMBER.findall(file.stem)] for file in files), strict=False))
    starts = (0, 1) if lines == len(files) else (0,)
    orders = {
        tuple(number - start for number in column)
        for column in columns
        for start in starts
        if sorted(column) == list(range(start, start + len(files)))
    }
    if len(orders) != 1:
        raise EvaluationError(
            f"The {len(files)} images of {source} should belong to lines of the prompts, but {_why(files, columns)}; call them "
            f"by the number of their line, 0.png to {len(files) - 1}.png."
        )
    return list(orders.pop())


def _pieces(name: str) -> tuple[str | int, ...]:
    """Split a name into text, number, text and so on, beginning with text."""
    return tuple(int(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(name)))


def _why(files: Sequence[PurePath], columns: Sequence[Sequence[int]]) -> str:
    """Say why names do not number the files. columns: the numbers at the same place in all names."""
    varying = [column for column in columns if len(set(column)) > 1]
    if not varying:
        return f"their names have no number of their own (the first is {files[0].name})"
    numbers = max(varying, key=lambda column: len(set(column)))
    missing = sorted(set(range(len(files))) - set(numbers))
    if len(varying) > 1 and not missing:
        return f"their names have several numbers (the first is {files[0].name})"
    return f"the numbers in their names do not run from 0 to {len(files) - 1} ({missing[0]} is missing, the first is {files[0].name})"
