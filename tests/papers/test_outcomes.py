"""The count of comparisons behind the papers' claims, by what came out."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmq_cli.errors import ConfigError
from dmq_cli.papers.claims import Verdict, summarised
from dmq_cli.papers.outcomes import claims_table, comparisons
from dmq_cli.store import write_json

STATES = {
    "holds": ["a", "b"],
    "holds as learned once": ["k", "l", "m", "n"],
    "ahead with unknown noise": ["c"],
    "not told apart": ["d", "e", "f"],
    "behind with unknown noise": ["g"],
    "does not hold as learned once": ["o"],
    "does not hold": ["h", "i"],
    "not measured": ["j"],
}


def line(counts: dict[str, list[str]]) -> str:
    """As it stands in a summary, which leaves the numbers behind it out."""
    verdict = Verdict("ours: is below theirs: at every width", summarised(counts)[0])
    return verdict.line()


@pytest.mark.parametrize("counts", [STATES, *({state: names} for state, names in STATES.items())])
def test_the_words_of_a_verdict_are_read_as_its_counts(counts: dict[str, list[str]]) -> None:
    expected = {state: len(names) for state, names in counts.items()}
    if set(counts) == {"not measured"}:
        expected = {"not measured": 1}
    assert comparisons(line(counts)) == expected


def test_papers_are_added_up(tmp_path: Path) -> None:
    for name, claims in (
        ("tac_1", [line(STATES), line({"holds": ["a"]})]),
        ("tac_2", []),
        ("tdq_2", [line({"does not hold": ["a", "b"]})]),
    ):
        title = (
            f"{'TAC' if name.startswith('tac') else 'TDQ'}, Table {name[-1]}: numbers (digits scale: not the paper's)"
        )
        write_json(tmp_path / f"{name}-digits" / "table.json", {"title": title, "claims": claims})
    rows = [
        [field.strip() for field in row.strip("|").split("|")] for row in claims_table(tmp_path, "digits").splitlines()
    ]
    assert rows[0] == [
        "paper", "claims", "comparisons", "hold", "hold as learned once", "not told apart", "do not hold as learned once", "do not hold",
        "not measured",
    ]  # fmt: skip
    assert rows[2:] == [["TAC", "2", "16", "3", "4", "5", "1", "2", "1"], ["TDQ", "1", "2", "", "", "", "", "2", ""]]


def test_without_tables_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no written table of a paper at paper scale"):
        claims_table(tmp_path, "paper")
