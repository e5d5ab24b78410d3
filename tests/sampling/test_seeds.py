from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmq_cli.errors import SeedError
from dmq_cli.sampling import parse_range, parse_ranges, require_disjoint, show
from tests.tiny import one_sentence

numbers = st.integers(0, 10**17)


@given(numbers, st.integers(0, 10**6))
def test_a_range_is_read_as_it_is_shown(first: int, more: int) -> None:
    seeds = range(first, first + more + 1)
    assert parse_range(f"{first}-{first + more}") == seeds == parse_range(show(seeds))
    assert parse_range(first) == parse_range(f" {first} ") == range(first, first + 1)


@given(numbers, st.integers(1, 10**6))
def test_an_empty_range_is_refused(first: int, more: int) -> None:
    with pytest.raises(SeedError, match="is empty; write the lower end first") as caught:
        parse_range(f"{first + more}-{first}")
    one_sentence(caught.value)


BAD = [
    "",
    "-",
    "5-",
    "-5",
    "1-2-3",
    "a",
    "1-b",
    "0..5",
    "1,2",
    "0 - 9",
    "²",
    "٣",
    "1.5",
    "+3",
    "9" * 19,
    -1,
    None,
]


@pytest.mark.parametrize("text", BAD)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SeedError, match="are not a range; write them like 0-1999") as caught:
        parse_range(text)
    assert caught.value.exit_code == 2
    one_sentence(caught.value)


@given(st.text(alphabet="0123456789-² a", max_size=6))
def test_text_gives_a_range_or_a_seed_error(text: str) -> None:
    with contextlib.suppress(SeedError):
        assert len(parse_range(text)) >= 1


def test_several_ranges() -> None:
    assert parse_ranges(["0-9", "10-19", "30-39"]) == [range(10), range(10, 20), range(30, 40)]
    assert parse_ranges("0-9") == [range(10)] and parse_ranges(4) == [range(4, 5)]
    for value, words in (
        ([], "list of seeds is empty"),
        (["0-9", "9-18"], r"seeds\[0\] \(0-9\) and seeds\[1\] \(9-18\) share the seeds 9-9"),
        (["5-6", "0-1", "1-2"], r"seeds\[1\] .* seeds\[2\] .* share the seeds 1-1"),
        (["0-9", "20-24"], "differ in length"),
    ):
        with pytest.raises(SeedError, match=words) as caught:
            parse_ranges(value)
        one_sentence(caught.value)


small = st.builds(lambda a, n: range(a, a + n), st.integers(0, 30), st.integers(1, 10))


@given(st.dictionaries(st.text("abc", min_size=1), small, max_size=4))
def test_disjoint_means_no_seed_twice(named: dict[str, range]) -> None:
    seeds = [seed for span in named.values() for seed in span]
    if len(set(seeds)) == len(seeds):
        require_disjoint(named)
    else:
        with pytest.raises(SeedError, match="share the seeds"):
            require_disjoint(named)
