"""How the numbers in metrics.json are shown, as their metrics say it."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from dmq_cli.choices import read_choice
from dmq_cli.metrics.metric import Metric, Shown
from dmq_cli.paths import choice_files, importing


def classes() -> dict[str, type[Metric]]:
    """The metrics of conf/metric and of folders of one's own, by name."""
    return _classes(tuple(choice_files("metric").items()))


@cache
def _classes(files: tuple[tuple[str, Path], ...]) -> dict[str, type[Metric]]:
    found: dict[str, type[Metric]] = {}
    for name, file in files:
        module, _, kind = str(read_choice(file)["_target_"]).rpartition(".")
        with importing():
            found[name] = getattr(importlib.import_module(module), kind)
    return found


def results() -> dict[str, Shown]:
    """The numbers that these metrics give, by their keys in metrics.json."""
    return {how.key: how for metric in classes().values() for how in metric.results}


def shown(key: str) -> Shown:
    """How a number is shown; one of somebody else's metric by its key, without an arrow."""
    return results().get(key, Shown(key, key))
