"""Check a paper's claims against the measured numbers.

A claim is data of the table's YAML file: `says` in words, and either
* column, better, worse (lists of methods as printed) and optionally part: at every part and width, each of `better` is better than
  each of `worse`; the arrow of the column's heading says which way. "As learned once" is what holds for other images of networks whose
  rounding, ranges or weights were learned with one seed;
* latency, bytes: a check of dmq_cli.papers.latencies, on what was measured of a network call;
* trace: a check of dmq_cli.papers.traces, on what was recorded inside of the networks;
* unchecked: why it cannot be checked yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dmq_cli.papers.numbers import Entry, difference
from dmq_cli.papers.transcript import PaperTable, Row
from dmq_cli.results.learned import Relearned
from dmq_cli.results.noise import inside_noise
from dmq_cli.results.record import Number

Look = Callable[[Row, str], "Entry | None"]
"""The measured number of a row in a column, by its heading."""
Apart = Callable[[Row, Row, str], "Number | None"]
"""Difference first - second of two rows in a column, image by image; None where it is not known."""
Relearn = Callable[[Row, Row, str], "Relearned | None"]
"""What other seeds of the learning do to the difference of two rows in a column; None where neither is learned."""

HOLDS, EVEN, FAILS, UNKNOWN = "holds", "not told apart", "does not hold", "not measured"
NOT_AVAILABLE = "not available: "  # and why a claim cannot be checked
AHEAD, BEHIND = "ahead with unknown noise", "behind with unknown noise"  # numbers without intervals
ONCE, FAILS_ONCE = "holds as learned once", "does not hold as learned once"  # outside the noise of images alone
_ORDER = (HOLDS, ONCE, AHEAD, EVEN, BEHIND, FAILS_ONCE, FAILS)
LEARNED_ONCE = {HOLDS: ONCE, FAILS: FAILS_ONCE}
"""What becomes of a state outside the noise of the images where a row that learns was learned with one seed."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim. short: in a few words; details: the numbers behind it, "" where there are none."""

    says: str
    short: str
    details: str = ""

    def line(self) -> str:
        """The claim, the outcome and the numbers."""
        return f"claim: {self.says}: {self.short}" + (f". {self.details}" if self.details else "")


def verdict(table: PaperTable, claim: Mapping[str, Any], look: Look, apart: Apart, relearn: Relearn) -> Verdict:
    """Check an ordering: at how many of the compared pairs of rows it holds, with their numbers.

    It holds, or does not, outside of both noises: of the images, and of the seed of what is learned.
    """
    comparisons: dict[str, list[str]] = {}
    heading = claim["column"]
    for better, worse in pairs(table, claim):
        first, second, paired = look(better, heading), look(worse, heading), apart(better, worse, heading)
        state, numbers = compare(heading, first, second, paired)
        if state in LEARNED_ONCE and first and second and (relearned := relearn(better, worse, heading)) is not None:
            state, numbers = over_learnings(heading, state, numbers, relearned, difference(first, second, paired))
        several = len(table.parts) > 1 and "part" not in claim
        where = f"{better.part} {better.setting()}" if several else better.setting()
        comparisons.setdefault(state, []).append(f"{worse.method} at {where}" + (f" ({numbers})" if numbers else ""))
    return Verdict(claim["says"], *summarised(comparisons))


def summarised(comparisons: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """Summarise all comparisons: the outcome and the numbers behind it. comparisons: by state."""
    total = sum(map(len, comparisons.values()))
    if not total:
        return UNKNOWN, ""
    details = [f"{state.capitalize()}: {', '.join(comparisons[state])}." for state in _ORDER if state in comparisons]
    if len(comparisons) == 1:
        (state, (first, *more)), *_ = comparisons.items()
        if state == UNKNOWN:
            return UNKNOWN, ""
        if more:
            return f"{state} in all {total} comparisons", " ".join(details)
        return state, f"{first}."
    shares = [f"{state} in {len(comparisons[state])}" for state in (*_ORDER, UNKNOWN) if state in comparisons]
    return f"{', '.join(shares)} of {total} comparisons", " ".join(details)


def pairs(table: PaperTable, claim: Mapping[str, Any]) -> Iterator[tuple[Row, Row]]:
    """Yield the pairs of rows that a claim compares, the better one first, of the same part and bits."""
    for better in _named(table, claim, claim["better"]):
        for worse in _named(table, claim, claim["worse"]):
            if (better.part, better.setting()) == (worse.part, worse.setting()):
                yield better, worse


def compare(heading: str, better: Entry | None, worse: Entry | None, paired: Number | None = None) -> tuple[str, str]:
    """Compare two rows in a column: the state, and the two numbers, with their difference image by image where it is known (paired)."""
    if better is None or worse is None:
        return UNKNOWN, ""
    lower = "↓" in heading
    ahead = better.value < worse.value if lower else better.value > worse.value
    numbers = f"{better.value:.4g} {('<' if lower else '>') if ahead else 'against'} {worse.value:.4g}"
    if paired is not None:
        numbers += f": {paired.value:+.2g} ± {paired.half:.2g}"
    inside = inside_noise(difference(better, worse, paired))
    if inside is None:
        return (AHEAD if ahead else BEHIND), numbers
    return (EVEN if inside else HOLDS if ahead else FAILS), numbers


def over_learnings(
    heading: str, state: str, numbers: str, relearned: Relearned, over_images: Number
) -> tuple[str, str]:
    """What becomes of a state that is outside the noise of images, and of its numbers, where other seeds of the learning are known.

    It stays where their mean difference is outside both noises together and on the same side; without other seeds it says so.
    over_images: the rows' own difference, whose noise all seeds of the learning share, as they have the same images.
    """
    mean = relearned.difference
    if mean is None:
        return LEARNED_ONCE[state], numbers
    ahead = mean.value < 0 if "↓" in heading else mean.value > 0
    told_apart = abs(mean.value) > math.hypot(mean.half or 0, over_images.half or 0) and ahead == (state == HOLDS)
    numbers += f"; learned with {len(mean.seeds)} seeds {mean.value:+.2g} ± {mean.half:.2g}"
    return (state if told_apart else EVEN), numbers


def _named(table: PaperTable, claim: Mapping[str, Any], methods: Sequence[str]) -> list[Row]:
    return [row for row in table.rows if row.method in methods and row.part == claim.get("part", row.part)]
