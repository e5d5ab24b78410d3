"""The result in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from dmq_cli.results.noise import over_full
from dmq_cli.results.runs import Result
from dmq_cli.results.verdict import difference, lower_is_better, shown, spread, verdict

_JUDGED = {
    "inside the noise": ", a difference{} inside the noise of the measurement",
    "outside the noise": ", a difference{} outside the noise of the measurement",
    "noise unknown": "; whether this is outside the noise cannot be said, as one of the two has no interval",
}


def statement(runs: Mapping[str, Result]) -> str:
    """One paragraph about runs that share a table: the best, what it saves, and the worst."""
    first = next(iter(runs.values())).evaluation
    key, name = next(iter(first.protocol["columns"].items()))
    ranked = sorted(
        runs, key=lambda label: runs[label].evaluation.quantized[key].value, reverse=not lower_is_better(key)
    )
    best, worst = runs[ranked[0]], runs[ranked[-1]]
    model = f"{first.model} "
    if len(ranked) == 1:
        told = [f"{ranked[0]} brings {model}to {name} {_against_full(best, key)}"]
    else:
        told = [
            f"Of {len(ranked)} runs on {model.strip()}, {ranked[0].removeprefix(model)} has the best {name}: {_against_full(best, key)}"
        ]
    told += [_twins(best), _price(best)]
    if len(ranked) > 1:
        alike = _text(worst, "quantized", key) == _text(best, "quantized", key)
        last = f"The worst is {ranked[-1].removeprefix(model)} with {_text(worst, 'quantized', key)}."
        told.append("The others do not differ by more than the digits shown." if alike else last)
    return " ".join(filter(None, [*told, _doubts(runs)]))


def _against_full(result: Result, key: str) -> str:
    over, inside = over_full(result.evaluation, key)
    own = result.evaluation.quantized[key].value
    twins = " on the same seeds," if key in result.evaluation.over_fp else ""
    judged = _JUDGED[verdict(inside)].format(f" of {difference(own, own - over)}{twins}")
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
    return "nothing" if number is None else " ".join(filter(None, (shown(number.value), spread(number))))
