"""Decide whether two measured numbers differ by more than noise."""

from __future__ import annotations

import math

from dmq_cli.results.record import Evaluation, Number

_NOTHING = Number(0.0, (0.0, 0.0))


def inside_noise(a: Number, b: Number = _NOTHING) -> bool | None:
    """Whether |a - b| <= sqrt(half_a^2 + half_b^2), so that the difference can be chance; None where one half is not known.

    The rule holds for independent numbers. Numbers of images from the same noise are correlated, so that a smaller difference can
    be real, too: see `pairs.Pairs` and `over_full`. Without b: whether a itself can be 0.
    """
    if a.half is None or b.half is None:
        return None
    return abs(a.value - b.value) <= math.hypot(a.half, b.half)


def alike(first: Evaluation, second: Evaluation, side: str, key: str, apart: Number | None = None) -> bool | None:
    """Whether the difference of two runs in a number can be chance; None where that is not known or one was not measured.

    Decided by apart, the difference by `pairs.Pairs`, where it is known; else, where both were compared with the same
    full-precision images, by their differences to these, which have less of the shared noise; else as independent numbers.
    """
    if apart is not None:
        return inside_noise(apart)
    if side == "quantized" and _twins(first) == _twins(second):
        above = first.number("over_fp", key), second.number("over_fp", key)
        if above[0] is not None and above[1] is not None:
            return inside_noise(above[0], above[1])
    a, b = first.number(side, key), second.number(side, key)
    return None if a is None or b is None else inside_noise(a, b)


def over_full(evaluation: Evaluation, key: str) -> tuple[float, bool | None]:
    """Difference of a quantized network's distance to full precision's, and whether that is inside the noise.

    By the difference to the full-precision images from the same noise where it is known, which resolves much smaller
    differences; else as two independent numbers. (0, None) where one was not measured.
    """
    if (difference := evaluation.over_fp.get(key)) is not None:
        return difference.value, inside_noise(difference)
    quantized, full = evaluation.quantized.get(key), evaluation.fp.get(key)
    if quantized is None or full is None:
        return 0.0, None
    return quantized.value - full.value, inside_noise(quantized, full)


def _twins(evaluation: Evaluation) -> list[str]:
    """The artifacts of the full-precision images that a run was compared with."""
    return [evaluation.artifacts.get(f"sample_fp-{seeds}", "") for seeds in evaluation.seeds]
