"""Look up how the numbers in metrics.json are shown, from their metrics."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from dmq_cli.choices import read_choice
from dmq_cli.metrics.metric import Metric, Shown, TwinMetric
from dmq_cli.paths import choice_files, conf_folders, importing


def classes() -> dict[str, type[Metric]]:
    """The metrics of conf/metric, the user's own folder and plugins, by name."""
    return _classes(tuple(conf_folders()))


def results() -> dict[str, Shown]:
    """The numbers of these metrics, by their keys in metrics.json."""
    return _results(tuple(conf_folders()))


def shown(key: str) -> Shown:
    """How a number is shown; one of an unknown metric by its key, without an arrow."""
    return results().get(key, Shown(key, key))


def of_twins() -> dict[str, str]:
    """The headings of the numbers that compare with full precision, by their keys."""
    metrics = (metric for metric in classes().values() if issubclass(metric, TwinMetric))
    return {how.key: how.heading for metric in metrics for how in metric.results}


@cache
def _classes(folders: tuple[Path, ...]) -> dict[str, type[Metric]]:
    """Import the metrics of choices. folders: of choices, the key of the cache."""
    kinds: dict[str, type[Metric]] = {}
    for name, file in choice_files("metric").items():
        module, _, kind = str(read_choice(file)["_target_"]).rpartition(".")
        with importing():
            kinds[name] = getattr(importlib.import_module(module), kind)
    return kinds


@cache
def _results(folders: tuple[Path, ...]) -> dict[str, Shown]:
    return {how.key: how for metric in _classes(folders).values() for how in metric.results}
