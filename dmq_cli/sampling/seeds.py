"""Seeds of images, written as ranges: image i starts from the noise of seed i."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from dmq_cli.errors import SeedError


def parse_range(text: str | int) -> range:
    """ "0-1999" to range(0, 2000); "7" to range(7, 8). Raises SeedError for anything else, and for an empty range."""
    match = re.fullmatch(r"([0-9]{1,18})(?:-([0-9]{1,18}))?", str(text).strip())  # 18 digits fit a generator's seed
    if match is None:
        raise SeedError(f"The seeds {text!r} are not a range; write them like 0-1999.")
    seeds = range(int(match[1]), int(match[2] or match[1]) + 1)
    if not seeds:
        raise SeedError(f"The seed range {text!r} is empty; write the lower end first, like 0-1999.")
    return seeds


def parse_ranges(value: str | int | Sequence[str | int]) -> list[range]:
    """Parse one range or several, which must not overlap and must have the same length. Raises SeedError."""
    texts = [value] if isinstance(value, str | int) else list(value)
    if not texts:
        raise SeedError("The list of seeds is empty; give at least one range, like seeds=0-1999.")
    ranges = [parse_range(text) for text in texts]
    require_disjoint({f"seeds[{i}]": r for i, r in enumerate(ranges)})
    if len({len(r) for r in ranges}) > 1:
        raise SeedError(
            f"The seed ranges {texts} differ in length, so their distances cannot be compared; make them equal."
        )
    return ranges


def require_disjoint(named: Mapping[str, range]) -> None:
    """Raise SeedError if two of the ranges share a seed: what is measured must not be what was fitted on."""
    for (name, first), (other_name, second) in itertools.combinations(named.items(), 2):
        low, high = max(first.start, second.start), min(first.stop, second.stop)
        if low < high:
            raise SeedError(
                f"{name} ({show(first)}) and {other_name} ({show(second)}) share the seeds {low}-{high - 1}; use ranges that do not overlap."
            )


def show(seeds: range) -> str:
    """The range as the user writes it."""
    return f"{seeds.start}-{seeds.stop - 1}"


def batches(seeds: range, size: int) -> Iterator[range]:
    """Consecutive pieces of at most `size` seeds, the last one included."""
    return (seeds[start : start + size] for start in range(0, len(seeds), size))
