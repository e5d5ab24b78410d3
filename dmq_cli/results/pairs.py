"""Differences of two runs' numbers, with their noise image by image.

Networks that start from the same noise make similar images, so that their numbers are correlated. The noise that is left in a
difference follows from the influence of every image on each number, which `dmq evaluate` writes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from dmq_cli.results.record import INFLUENCE, Evaluation, Number

if TYPE_CHECKING:  # tables are listed without torch
    from torch import Tensor

StoredDifferences = Mapping[str, Mapping[str, list[float]]]


class Pairs:
    """Differences of runs from the same noise. find: from an evaluate artifact's name to its folder, which need not exist.

    known: an earlier `used`, for differences whose artifacts are gone. used: every difference that was computed, by the artifacts
    of both runs and the number: [difference, half the width of its 95 % interval].
    """

    def __init__(self, find: Callable[[str], Path], stored: StoredDifferences | None = None) -> None:
        self._find, self._known = find, stored or {}
        self._influences = functools.cache(self._load)
        self.used: dict[str, dict[str, list[float]]] = {}

    def __call__(self, first: Evaluation, second: Evaluation, side: str, key: str) -> Number | None:
        """Difference first - second of a number, with its 95 % interval. side: quantized or paired.

        None where either was not measured, where their seeds differ, and where the influences of their images are not known.
        """
        first_number, second_number = first.number(side, key), second.number(side, key)
        if first_number is None or second_number is None or first.seeds != second.seeds:
            return None
        evaluations = [_evaluations(run) for run in (first, second)]
        name = " ".join(",".join(keys) for keys in evaluations)
        stored = self._known.get(name, {}).get(key)
        half = stored[1] if stored else self._half(list(zip(*evaluations, strict=True)), key)
        if half is None:
            return None
        difference = first_number.value - second_number.value
        self.used.setdefault(name, {})[key] = [difference, half]
        return Number(difference, (difference - half, difference + half))

    def _half(self, pairs: list[tuple[str, str]], key: str) -> float | None:
        """Half the width of the 95 % interval of the mean over seed ranges, which are independent of each other."""
        from dmq_cli.metrics.interval import difference_interval

        halves = []
        for pair in pairs:
            a, b = (self._influences(artifact).get(key) for artifact in pair)
            if a is None or b is None or len(a) != len(b):
                return None
            low, high = difference_interval(0.0, a, b)
            halves.append((high - low) / 2)
        return math.hypot(*halves) / len(halves) if halves else None

    def _load(self, artifact: str) -> Mapping[str, Tensor]:
        from dmq_cli.store.tensors import load_tensors

        file = self._find(artifact) / INFLUENCE
        return load_tensors(file) if artifact and file.is_file() else {}


def _evaluations(evaluation: Evaluation) -> list[str]:
    return [evaluation.artifacts.get(f"evaluate-{seeds}", "") for seeds in evaluation.seeds]
