"""List the tables, and how many cells of each are finished."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmq_cli.choices import names, read_choice
from dmq_cli.errors import DmqError
from dmq_cli.papers.runnable import jobs
from dmq_cli.paths import conf_folder


def tables(finished: Mapping[str, int]) -> list[dict[str, Any]]:
    """List name, kind (paper or own), finished and total (cells; None where unknown) of every table.

    finished: number of cells in each table's folder. A paper's table has two folders: name, and name-digits for `scale=digits`.
    """
    total: dict[str, tuple[str, int | None]] = {}
    for choice in names("table"):
        config = read_choice(conf_folder() / "table" / f"{choice}.yaml")
        table = config.get("table") or {}
        if table.get("paper"):
            for scale, folder in (("paper", table["name"]), ("digits", f"{table['name']}-digits")):
                total[folder] = ("paper", _rows(table, scale))
        elif table.get("name"):
            before = total.get(table["name"], ("own", 0))[1] or 0  # a further part fills the same table
            total[table["name"]] = ("own", before + _jobs(config))
    total |= {name: ("own", None) for name in finished if name not in total}
    return [
        {"name": name, "kind": kind, "finished": finished.get(name, 0), "total": count}
        for name, (kind, count) in sorted(total.items())
    ]


def _jobs(config: Mapping[str, Any]) -> int:
    """Count the jobs of a table's sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = config.get("hydra", {}).get("sweeper", {}).get("params", {})
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return math.prod(
        len(list(override.sweep_string_iterator())) for override in overrides if override.is_sweep_override()
    )


def _rows(table: Mapping[str, Any], scale: str) -> int | None:
    """Count the rows of a paper's table that can be run; None for a table that cannot be read."""
    try:
        return len(jobs(dict(table), scale))
    except DmqError:
        return None
