"""What tables there are, and how much of each is filled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmq_cli.choices import names, read_choice
from dmq_cli.errors import DmqError
from dmq_cli.papers.runnable import jobs
from dmq_cli.paths import conf_folder


def tables(finished: Mapping[str, int]) -> list[dict[str, Any]]:
    """name, kind (paper or own), finished and total (cells; None where nobody says) of every table.

    finished: how many cells lie in each table's folder. A paper's table has two: name, and name-digits for `scale=digits`.
    """
    total: dict[str, tuple[str, int | None]] = {}
    for choice in names("table"):
        found = read_choice(conf_folder() / "table" / f"{choice}.yaml")
        table = found.get("table") or {}
        if table.get("paper"):
            for scale, folder in (("paper", table["name"]), ("digits", f"{table['name']}-digits")):
                total[folder] = ("paper", _rows(table, scale))
        elif table.get("name"):
            before = total.get(table["name"], ("own", 0))[1] or 0  # a further part fills the same table
            total[table["name"]] = ("own", before + _jobs(found))
    total |= {name: ("own", None) for name in finished if name not in total}
    return [
        {"name": name, "kind": kind, "finished": finished.get(name, 0), "total": count}
        for name, (kind, count) in sorted(total.items())
    ]


def _jobs(found: Mapping[str, Any]) -> int:
    """How many jobs the choices of a table's sweep make."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = found.get("hydra", {}).get("sweeper", {}).get("params", {})
    overrides = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    return math.prod(len(list(one.sweep_string_iterator())) for one in overrides if one.is_sweep_override())


def _rows(table: Mapping[str, Any], scale: str) -> int | None:
    """How many rows of a paper's table can be run; None where that cannot be told."""
    try:
        return len(jobs(dict(table), scale))
    except DmqError:
        return None
