"""The order of files, and whose line is whose."""

from __future__ import annotations

import random
from pathlib import PurePath

import pytest

from dmq_cli.errors import EvaluationError
from dmq_cli.metrics.reading.order import line_numbers, natural


def paths(*names: str) -> list[PurePath]:
    return [PurePath(name) for name in names]


@pytest.mark.parametrize(
    "ordered",
    [
        [f"{number}.png" for number in range(120)],
        ["img_2.png", "img_010.png", "img_10.png", "img_11.png"],
        ["007.png", "7.png", "8.png", "10.png"],
        ["2/9.png", "2/10.png", "10/1.png"],
        ["a.png", "a1.png", "b.PNG", "b.png"],
        ["B.png", "a.png", "b/a.png", "b/c/a.png", "b/d.png"],
        ["1.png", "1a.png", "1b.png", "2.png", "x.png"],
        ["0_cat.png", "1_9.png", "1_10.png"],
        ["a/1.png", "a.png", "b"],
        ["٣.png", "٤.png"],
    ],
)
def test_numbers_in_names_count_as_numbers_and_texts_as_texts(ordered: list[str]) -> None:
    mixed = paths(*ordered)
    random.Random(0).shuffle(mixed)
    assert sorted(mixed, key=natural) == paths(*ordered)


@pytest.mark.parametrize(
    ("names", "lines", "expected"),
    [
        (["0.png", "1.png", "2.png"], 9, [0, 1, 2]),
        (["10.png", *(f"{n}.png" for n in range(10))], 50, [10, *range(10)]),
        (["b/0001.png", "a/0000.png"], 2, [1, 0]),
        (["x_7_1.png", "x_7_0.png"], 5, [1, 0]),  # a number that is the same in all
        (["1-seed99.png", "0-seed12.png"], 5, [1, 0]),
        (["1.png", "2.png", "3.png"], 3, [0, 1, 2]),  # from 1, where there are as many lines
        (["0_0.png", "1_1.png"], 5, [0, 1]),
    ],
)
def test_a_file_belongs_to_the_line_of_its_number(names: list[str], lines: int, expected: list[int]) -> None:
    assert line_numbers(paths(*names), lines, "d") == expected


@pytest.mark.parametrize(
    ("names", "lines", "part"),
    [
        (["0.png", "1.png", "3.png"], 4, "do not run from 0 to 2 (2 is missing"),
        (["1.png", "2.png", "3.png"], 4, "(0 is missing, the first is 1.png)"),  # does 1.png show line 0 or 1?
        (["100.png", "101.png"], 200, "0 is missing"),
        (["cat.png", "dog.png"], 2, "no number of their own (the first is cat.png)"),
        (["0.png", "1.png", "cat.png"], 3, "no number"),
        (["0.png", "00.png"], 2, "no number of their own"),
        (["a/0.png", "b/0.png", "a/1.png", "b/1.png"], 4, "2 is missing"),  # a number twice
        (["0-1.png", "1-0.png"], 2, "several numbers"),
    ],
)
def test_names_that_do_not_say_whose_line_is_whose(names: list[str], lines: int, part: str) -> None:
    with pytest.raises(EvaluationError) as caught:
        line_numbers(paths(*names), lines, "d")
    assert part in str(caught.value) and f"0.png to {len(names) - 1}.png" in str(caught.value)
