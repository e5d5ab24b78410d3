"""What stands at the top of a page: what was quantized and how, the methods by their papers, and when it was measured."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from dmq_cli.results.naming import few
from dmq_cli.results.runs import Result


def title(runs: Mapping[str, Result]) -> str:
    """Models, methods, bits, and the overrides that all runs have."""
    methods, bits = _distinct(runs, "method"), [name.upper() for name in _distinct(runs, "bits")]
    methods_text = ", ".join(methods) if len(methods) <= 5 else f"{len(methods)} methods"
    shared = few(_shared(runs))
    more = f" with {', '.join(shared)}" if shared else ""
    return f"{', '.join(_distinct(runs, 'model'))}: {methods_text} at {', '.join(bits)}{more}"


def subtitle(runs: Mapping[str, Result]) -> str:
    """How many runs, how they were measured and with which budget."""
    protocols = list(dict.fromkeys(run.evaluation.protocol["name"] for run in runs.values()))
    measured = any(run.evaluation.headline for run in runs.values())
    measurement = f"protocol {', '.join(protocols)}" if measured else "images only, nothing was measured"
    budgets = list(dict.fromkeys(str(run.config.get("budget", {}).get("name")) for run in runs.values()))
    count = "" if len(runs) == 1 else f"{len(runs)} runs, "
    shared = _shared(runs)
    more = f"; {', '.join(shared)}" if len(few(shared)) < len(shared) else ""
    return f"{count}{measurement}, budget {', '.join(budgets)}{more}"


def days(runs: Mapping[str, Result]) -> list[str]:
    """The first and the last day on which a run ended, one where they are the same; none where no run says, as old cells."""
    finished = sorted(run.finished[:10] for run in runs.values() if run.finished)
    return list(dict.fromkeys([*finished[:1], *finished[-1:]]))


def in_full(runs: Mapping[str, Result]) -> list[tuple[str, str]]:
    """Short names of the title and what they stand for: methods by paper, with the options of the runs, then settings of bits."""
    methods = _distinct(runs, "method")
    papers = [(name, _paper([run for run in runs.values() if run.evaluation.method == name])) for name in methods]
    bits = [(name.upper(), words) for name in _distinct(runs, "bits") if (words := _bits(name))]
    return [*papers, *bits]


def _paper(runs: Iterable[Result]) -> str:
    """The paper of one method, as its configuration cites it, and every set of options these runs gave it."""
    first, *further = runs
    cite = first.config["method"].get("cite") or first.evaluation.cite or "no source is named in its configuration"
    options = dict.fromkeys(" ".join(run.evaluation.overrides) for run in (first, *further))
    if not any(options):
        return str(cite)
    return f"{cite}; with {' | '.join(words or 'no options' for words in options)}"


def _bits(name: str) -> str:
    """The widths of w4a8 in words; empty for another name."""
    widths = re.fullmatch(r"w(\d+)a(\d+)", name)
    return f"weights of {widths[1]} bits, activations of {widths[2]} bits" if widths else ""


def _distinct(runs: Mapping[str, Result], name: str) -> list[str]:
    values: list[Any] = [getattr(run.evaluation, name) for run in runs.values()]
    return list(dict.fromkeys(values))


def _shared(runs: Mapping[str, Result]) -> list[str]:
    """The overrides that all runs have."""
    first, *further = [run.evaluation.overrides for run in runs.values()]
    return [word for word in first if all(word in overrides for overrides in further)]
