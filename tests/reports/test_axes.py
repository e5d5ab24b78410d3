"""What is counted has ticks at whole numbers."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np

from dmq_cli.report.evidence import is_inert, trace
from dmq_cli.report.figures.learning import curves
from dmq_cli.report.figures.lines import correction, cosine
from dmq_cli.report.figures.style import Look
from dmq_cli.results.runs import load_result
from tests.reports import runs

LOOK = Look("#0072b2", "o", "w3a8")


def ticks(svg: str) -> list[str]:
    """The numbers below the axes, which hang from a tick in the middle."""
    return re.findall(r"text-anchor: middle[^>]*>([\d.]+)</text>", svg)


def test_iterations_and_calls_are_whole() -> None:
    losses = {"weights": {"block": [(0, 2.0), (1, 1.5), (2, 1.2), (3, 1.1)]}}
    tables = {"a": {"gain": np.ones((5, 1)), "bias": np.ones((5, 1, 2, 2))}}
    for svg in (curves(losses), correction(tables, {"a": LOOK})):
        assert ticks(svg) and all(tick.isdecimal() for tick in ticks(svg))


def test_a_gain_that_does_nothing_is_told() -> None:
    bias = np.zeros((5, 1, 2, 2))
    for furthest, inert in ((0.0, False), (0.002, True), (0.004, False)):
        gain = np.ones((5, 2))
        gain[3, 1] -= furthest
        assert is_inert({"gain": gain, "bias": bias}) == inert, "1 everywhere: none was solved"


def test_the_network_s_own_gain_is_drawn_beside_k() -> None:
    tables = {"gain": np.full((5, 1), 1.1), "bias": np.ones((5, 1, 2, 2))}
    lines = [
        correction({"a": shown}, {"a": LOOK}).count("stroke-dasharray")
        for shown in (tables, {**tables, "slope": np.full((5, 1), 1.2)})
    ]
    assert lines[1] == lines[0] + 1


def test_calls_of_several_samplers_are_whole(tmp_path: Path) -> None:
    run_trace = trace(load_result(runs.run(tmp_path, runs.metrics("minmax"))))
    few = {twin: values[:4] for twin, values in run_trace.block_cosine.items()}
    short = [replace(run_trace, timesteps=steps, block_cosine=few) for steps in ([9, 6, 3, 0], [8, 6, 3, 0])]
    svg = cosine(dict(zip("ab", short, strict=True)), dict.fromkeys("ab", LOOK))
    assert ticks(svg) and all(tick.isdecimal() for tick in ticks(svg))
