"""Every two choices of different groups work together, on a tiny model: over 1,200 pairs in some 360 combinations, none refused.

A sixteenth of the combinations of some reconstructions, one of every kind, are fast tests.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from functools import cache
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.errors import DmqError
from dmq_cli.results.images import load_images
from dmq_cli.stages.graph import Graph
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.store import ArtifactStore
from tests.chain import QUICK, tiny_folder
from tests.test_conf import choices, composed
from tests.tiny import SMALL, one_sentence

Row = dict[str, str]
Pair = tuple[tuple[str, str], tuple[str, str]]
RECONS = [
    "adaround",
    "brecq",
    "eda",
    "dynamic_qat",
    "efficientdm",
    "nipq",
    "none",
    "pact",
    "par",
    "qat",
    "qdrop",
    "quest",
    "quest_imagenet",
]
RECONS += ["quest_lsun", "quest_sd", "scales", "signround", "tdq_qat", "tfmq"]
FAST_RECONS = {"brecq", "efficientdm", "none", "quest"}
PARTS = 16
GROUPS = ("scheme", "recon", "policy", "correct", "calib", "transform")
FEW: dict[str, dict[str, Any]] = {
    "calib": {"seeds": "1000000-1000002", "trajectory_steps": 3, "num_steps": 2},
    "correct": {"seeds": "2000000-2000001"},
    "recon": {"refine_rounds": 1},
    "sampler": {"num_inference_steps": 2},
}


def pairs(row: Row) -> set[Pair]:
    """Every two choices of a combination."""
    return set(itertools.combinations(row.items(), 2))


def covering(groups: dict[str, list[str]]) -> list[Row]:
    """Combinations in which every two choices of different groups meet: greedy, always the same.

    Each starts from the first pair that is still missing, and then takes, group after group, the choice that adds most.
    """
    singles = [[(group, choice) for choice in options] for group, options in groups.items()]
    every = (itertools.product(entries, other) for entries, other in itertools.combinations(singles, 2))
    missing, rows = dict.fromkeys(itertools.chain(*every)), []
    while missing:
        row: Row = dict(next(iter(missing)))
        for group in (g for g in groups if g not in row):
            ordered = ({g: row.get(g, choice) for g in groups if g in row or g == group} for choice in groups[group])
            row = max(ordered, key=lambda entries: sum(pair in missing for pair in pairs(entries)))
        rows.append(row)
        for pair in pairs(row):
            missing.pop(pair, None)
    return rows


@cache
def combinations() -> list[Row]:
    """Those of all choices there are, found once by a process."""
    return covering({group: choices(group) for group in GROUPS})


@pytest.fixture(scope="module")
def sections(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The configuration of every choice of every group, and under "" what they have in common."""
    folder = tiny_folder(tmp_path_factory.mktemp("model") / "tiny", sample_size=8, **SMALL)
    common = ["model=folder", f"model.path={folder}", "model.name=tiny", "seeds=0-1", *QUICK, "budget.num_samples=4"]
    common = [word.replace("iterations=2", "iterations=1") for word in common]
    names, configs = {group: choices(group) for group in GROUPS}, {}
    for number in range(max(map(len, names.values()))):
        row = {group: options[number % len(options)] for group, options in names.items()}
        whole = composed(*common, *(f"{group}={choice}" for group, choice in row.items())) | {"stage": "sample"}
        configs[""] = {**whole, "sampler": whole["sampler"] | FEW["sampler"]}
        for group, choice in row.items():
            few = {key: value for key, value in FEW.get(group, {}).items() if key in whole[group]}
            configs[f"{group}={choice}"] = whole[group] | few
    return configs


def test_the_combinations_cover_every_pair() -> None:
    groups = {group: choices(group) for group in GROUPS}
    rows = combinations()
    covered = set().union(*map(pairs, rows))
    sizes = [len(options) for options in groups.values()]
    assert len(covered) == sum(a * b for a, b in itertools.combinations(sizes, 2)) >= 1200
    needed = math.prod(sorted(sizes)[-2:])
    assert needed <= len(rows) <= 1.1 * needed, "few more than the two greatest groups need by themselves"
    counts = Counter(row["recon"] for row in rows)
    assert set(counts) == set(RECONS) and max(counts.values()) - min(counts.values()) <= 2, "about as many of each"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """Over one store for all combinations: they share calibration sets, transforms and targets."""
    with patch("dmq_cli.stages.graph.environment", dict):  # asks git, for each of many artifacts
        yield Graph(NODES, ArtifactStore(tmp_path_factory.mktemp("artifacts")), Progress(quiet=True))


def part_of(recon: str, part: int) -> list[Row]:
    """Every PARTS-th combination of a reconstruction, from the first (part 0), the second, ..."""
    return [row for row in combinations() if row["recon"] == recon][part::PARTS]


def test_the_parts_are_all_combinations() -> None:
    parts = [part_of(recon, part) for recon in RECONS for part in range(PARTS)]
    assert sum(map(len, parts)) == len(combinations()) and min(map(len, parts)) >= 1


def part_parameters() -> list[Any]:
    """Every reconstruction with every part; the first part of some is fast."""
    slow = pytest.mark.slow
    every = itertools.product(RECONS, range(PARTS))
    return [pytest.param(r, p, marks=() if p == 0 and r in FAST_RECONS else slow) for r, p in every]


@pytest.mark.parametrize(("recon", "part"), part_parameters())
def test_every_combination_runs(recon: str, part: int, sections: dict[str, Any], graph: Graph) -> None:
    rows = part_of(recon, part)
    outcome, outside = Counter[str](), sections[""]
    for row in rows:
        selection = {group: sections[f"{group}={choice}"] for group, choice in row.items()}
        try:
            folder = graph.ensure("sample", prepare({**outside, **selection}))
            assert load_images(folder).shape == (2, 8, 8, 1)
            outcome["ran"] += 1
        except DmqError as error:
            outcome[f"{row}: {one_sentence(error)}"] += 1
    assert outcome == {"ran": len(rows)}, "and none is refused: what cannot be is not among the choices"
