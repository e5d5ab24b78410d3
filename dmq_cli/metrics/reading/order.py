"""In which order images come from the names of their files, and which line of a list of prompts is whose."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from dmq_cli.errors import EvaluationError

_NUMBER = re.compile(r"([0-9]+)")


def natural(file: PurePath) -> tuple[Any, str]:
    """A key to sort paths by: numbers in the names of folders and files count as numbers, so that 2.png stands before 10.png.

    Paths that differ in zeros alone (7 and 007) stand in the order of their text.
    """
    parts = [(_pieces(folder), ()) for folder in file.parts[:-1]]
    return [*parts, (_pieces(file.stem), _pieces(file.suffix))], str(file)


def line_numbers(files: Sequence[PurePath], lines: int, source: str) -> list[int]:
    """The line, from 0, that belongs to each of N files: the number in its name.

    A number that is at the same place in all names counts, where it runs from 0 to N - 1 without gaps; or from 1 to N where
    there are N lines. lines: how many there are; source: what the files are of, for errors. Raises EvaluationError
    where no number does that, or two do in different ways: then nobody knows which line is whose.
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
    """Text, number, text and so on, always beginning with a text."""
    return tuple(int(part) if place % 2 else part for place, part in enumerate(_NUMBER.split(name)))


def _why(files: Sequence[PurePath], columns: Sequence[Sequence[int]]) -> str:
    """What keeps the names from numbering the files. columns: the numbers that all names have, each at one place."""
    varying = [column for column in columns if len(set(column)) > 1]
    if not varying:
        return f"their names have no number of their own (the first is {files[0].name})"
    numbers = max(varying, key=lambda column: len(set(column)))
    missing = sorted(set(range(len(files))) - set(numbers))
    if len(varying) > 1 and not missing:
        return f"their names have several numbers (the first is {files[0].name})"
    return f"the numbers in their names do not run from 0 to {len(files) - 1} ({missing[0]} is missing, the first is {files[0].name})"
