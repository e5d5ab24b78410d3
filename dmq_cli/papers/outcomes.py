"""How the papers' claims fared, paper by paper, from the summaries beside their tables."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from dmq_cli.errors import ConfigError
from dmq_cli.papers.claims import AHEAD, BEHIND, EVEN, FAILS, FAILS_ONCE, HOLDS, NOT_AVAILABLE, ONCE, UNKNOWN
from dmq_cli.papers.runnable import folder_name
from dmq_cli.papers.transcript import names
from dmq_cli.store import read_json

_COLUMNS = {
    "hold": (HOLDS,),
    "hold as learned once": (ONCE,),
    "not told apart": (EVEN, AHEAD, BEHIND),
    "do not hold as learned once": (FAILS_ONCE,),
    "do not hold": (FAILS,),
    "not measured": (UNKNOWN,),
}
_LONGEST_FIRST = sorted((state for states in _COLUMNS.values() for state in states), key=len, reverse=True)
_STATE = re.compile(rf"(?P<state>{'|'.join(map(re.escape, _LONGEST_FIRST))})(?: in (?:all )?(?P<count>\d+))?")


def claims_table(tables: Path, scale: str) -> str:
    """Count the comparisons that the claims of each paper stand for, by what came out; those with unknown noise are not told apart.

    scale: paper or digits. Raises ConfigError where no table is written.
    """
    by_paper: dict[str, Counter[str]] = {}
    for name in names():
        file = tables / folder_name(name, scale) / "table.json"
        if file.is_file():
            summary = read_json(file)
            counts = by_paper.setdefault(str(summary["title"]).partition(",")[0], Counter())
            for claim in summary["claims"]:
                counts["claims"] += 1
                counts.update(comparisons(str(claim)))
    if not by_paper:
        raise ConfigError(f"{tables} has no written table of a paper at {scale} scale; write them with: make tables.")
    heads = ["paper", "claims", "comparisons", *_COLUMNS]
    lines = [heads, ["---"] * len(heads), *(_row(paper, counts) for paper, counts in by_paper.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def comparisons(claim: str) -> Counter[str]:
    """Count the comparisons of one claim, as it stands in a summary, by their state; a claim without a number is one, one that cannot be
    checked none.
    """
    if f": {NOT_AVAILABLE}" in claim:
        return Counter()
    outcome = claim.rpartition(": ")[2]
    return Counter({match["state"]: int(match["count"] or 1) for match in _STATE.finditer(outcome)})


def _row(paper: str, counts: Counter[str]) -> list[str]:
    totals = [sum(counts[state] for state in states) for states in _COLUMNS.values()]
    return [paper, *(str(number) if number else "" for number in (counts["claims"], sum(totals), *totals))]
