"""What a run's full-precision numbers rest on: runs that differ in it stand in no common table, ranking or comparison."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from dmq_cli.results.record import Evaluation
from dmq_cli.results.runs import flatten
from dmq_cli.store import digest

_CONFIGURED = ("sampler", "numerics", "cond", "to_uint8")
_Run = TypeVar("_Run")


def standing(evaluation: Evaluation) -> str:
    """Hash the model with its weights, sampler, numerics, condition, seeds and protocol; what is null says no more than what is not there."""
    config = evaluation.config
    settings = flatten({key: config.get(key) for key in _CONFIGURED} | {
        "model": evaluation.model,
        "random": evaluation.random or None,
        "sha": config.get("model", {}).get("sha256"),
        "seeds": list(evaluation.seeds),
        "fp_seeds": list(evaluation.fp_seeds),
        "protocol": evaluation.protocol["hash"],
    })  # fmt: skip
    return digest({key: value for key, value in settings.items() if value not in (None, {}, [])})


def grouped(runs: Iterable[tuple[_Run, Evaluation]]) -> list[list[tuple[_Run, Evaluation]]]:
    """Split runs, each with its evaluation, into groups of one standing, in the order of their first ones."""
    groups: dict[str, list[tuple[_Run, Evaluation]]] = {}
    for name, evaluation in runs:
        groups.setdefault(standing(evaluation), []).append((name, evaluation))
    return list(groups.values())
