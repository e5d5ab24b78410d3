"""The result in plain words."""

from __future__ import annotations

import math
from collections.abc import Mapping

from dmq_cli.metrics.shown import shown as shown_as
from dmq_cli.results.noise import over_full
from dmq_cli.results.runs import Result
from dmq_cli.results.verdict import difference, lower_is_better, shown, spread, verdict, with_unit

_JUDGED = {
    "inside the noise": ", a difference{} inside the noise of the measurement",
    "outside the noise": ", a difference{} outside the noise of the measurement",
    "noise unknown": "; whether this is outside the noise cannot be said, as one of the two has no interval",
}


def statement(runs: Mapping[str, Result]) -> str:
    """One paragraph about runs that share a table: the best, what it saves, and the worst."""
    first = next(iter(runs.values())).evaluation
    if first.headline is None:
        return _doubts(runs)
    side, key = first.headline
    name = first.protocol["columns"].get(key, shown_as(key).heading)
    ranked = sorted(runs, key=lambda label: _value(runs[label], side, key), reverse=not lower_is_better(key))
    best, worst = runs[ranked[0]], runs[ranked[-1]]
    model = f"{first.model} "
    if len(ranked) == 1:
        verb = f"brings {model}to {name}" if side == "quantized" else f"on {model}has a {name} of"
        sentences = [f"{ranked[0]} {verb} {_against_full(best, side, key)}"]
    else:
        sentences = [
            f"Of {len(ranked)} runs on {model.strip()}, {ranked[0].removeprefix(model)} has the best {name}: {_against_full(best, side, key)}"
        ]
    sentences += [_twins(best) if side == "quantized" else "", _price(best)]
    if len(ranked) > 1:
        alike = _text(worst, side, key) == _text(best, side, key)
        last = f"The worst is {ranked[-1].removeprefix(model)} with {_text(worst, side, key)}."
        sentences.append("The others do not differ by more than the digits shown." if alike else last)
    return " ".join(filter(None, [*sentences, _doubts(runs)]))


def _value(result: Result, side: str, key: str) -> float:
    """What a run is ranked by; the last place for one that did not measure it."""
    number = result.evaluation.number(side, key)
    return number.value if number is not None else math.inf if lower_is_better(key) else -math.inf


def _against_full(result: Result, side: str, key: str) -> str:
    if side == "paired":
        return (
            f"{_text(result, side, key)}, each image held against the one that full precision makes of the same noise."
        )
    over, inside = over_full(result.evaluation, key)
    quantized = result.evaluation.quantized[key].value
    twins = " on the same seeds," if key in result.evaluation.over_fp else ""
    judged = _JUDGED[verdict(inside)].format(f" of {difference(quantized, quantized - over)}{twins}")
    return f"{_text(result, 'quantized', key)} against {_text(result, 'fp', key)} at full precision{judged}."


def _twins(result: Result) -> str:
    psnr = result.evaluation.paired.get("psnr")
    if psnr is None:
        return ""
    return f"Its images are on average {shown(psnr.value)} dB (PSNR) from those that full precision makes of the same noise."


def _price(result: Result) -> str:
    cost = result.evaluation.cost
    if cost is None:
        return ""
    size, full = cost.size_bytes / 1e6, cost.size_bytes_fp / 1e6
    if (size, cost.bops) == (full, cost.bops_fp):
        return f"The network keeps its {full:.2f} MB and its {cost.bops / 1e9:.1f} billion bit operations in one call, as nothing of it is quantized."
    return (
        f"The network shrinks from {full:.2f} to {size:.2f} MB ({full / size:.1f} times fewer bytes) and one call of it from"
        f" {cost.bops_fp / 1e9:.1f} to {cost.bops / 1e9:.1f} billion bit operations ({cost.bops_fp / cost.bops:.0f} times fewer)."
    )


def _doubts(runs: Mapping[str, Result]) -> str:
    """What keeps these numbers from being a result."""
    doubts = []
    if any(result.evaluation.random for result in runs.values()):
        doubts.append("The weights are random: the numbers say nothing about the model.")
    budgets = {result.config.get("budget", {}).get("name") for result in runs.values()}
    if "smoke" in budgets:
        doubts.append("The budget was smoke, which shows that a method runs and not what it can do.")
    return " ".join(doubts)


def _text(result: Result, side: str, key: str) -> str:
    number = result.evaluation.number(side, key)
    return "nothing" if number is None else " ".join(filter(None, (with_unit(number), spread(number))))
