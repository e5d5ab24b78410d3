"""How far two runs are apart, image by image.

Networks that were given the same noise make images that resemble each other, so that their numbers move together. How much noise
is left in a difference is known from the influence of every image on each number, which `dmq evaluate` keeps.
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

Kept = Mapping[str, Mapping[str, list[float]]]


class Pairs:
    """Differences of runs of the same noise. find: the folder of an artifact of evaluate; one that does not exist where the artifact is not here.

    known: what `used` was once, for differences whose artifacts are gone. used: every difference that was asked for and found,
    by the artifacts of both runs and the number: [difference, half the width of its 95 % interval].
    """

    def __init__(self, find: Callable[[str], Path], known: Kept | None = None) -> None:
        self._find, self._known = find, known or {}
        self._influences = functools.cache(self._load)
        self.used: dict[str, dict[str, list[float]]] = {}

    def __call__(self, one: Evaluation, other: Evaluation, side: str, key: str) -> Number | None:
        """How far a number of one is above other's. side: quantized or paired.

        None where either was not measured, where they ran on other seeds, and where nothing is known of their images.
        """
        ours, theirs = one.number(side, key), other.number(side, key)
        if ours is None or theirs is None or one.seeds != other.seeds:
            return None
        evaluations = [_evaluations(run) for run in (one, other)]
        name = " ".join(",".join(keys) for keys in evaluations)
        known = self._known.get(name, {}).get(key)
        half = known[1] if known else self._half(list(zip(*evaluations, strict=True)), key)
        if half is None:
            return None
        difference = ours.value - theirs.value
        self.used.setdefault(name, {})[key] = [difference, half]
        return Number(difference, (difference - half, difference + half))

    def _half(self, pairs: list[tuple[str, str]], key: str) -> float | None:
        """Of the mean over seed ranges, which are independent of each other."""
        from dmq_cli.metrics.interval import difference_interval

        halves = []
        for pair in pairs:
            a, b = (self._influences(one).get(key) for one in pair)
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
