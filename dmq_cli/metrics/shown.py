"""How the numbers in metrics.json are shown, as their metrics say it."""

from __future__ import annotations

import importlib
from functools import cache

from dmq_cli.choices import names, read_choice
from dmq_cli.metrics.metric import Metric, Shown
from dmq_cli.paths import conf_folder


@cache
def classes() -> dict[str, type[Metric]]:
    """The metrics of conf/metric, by name."""
    found: dict[str, type[Metric]] = {}
    for name in names("metric"):
        module, _, kind = str(read_choice(conf_folder() / "metric" / f"{name}.yaml")["_target_"]).rpartition(".")
        found[name] = getattr(importlib.import_module(module), kind)
    return found


@cache
def results() -> dict[str, Shown]:
    """The numbers that these metrics give, by their keys in metrics.json."""
    return {how.key: how for metric in classes().values() for how in metric.results}


def shown(key: str) -> Shown:
    """How a number is shown; one of somebody else's metric by its key, without an arrow."""
    return results().get(key, Shown(key, key))
