"""Two runs of the same noise are compared image by image: planted influences, and what is kept of them."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli import papers
from dmq_cli.papers.transcript import paper_table
from dmq_cli.results.noise import alike
from dmq_cli.results.pairs import Pairs
from dmq_cli.results.record import Evaluation, as_evaluation
from dmq_cli.store import read_json
from dmq_cli.store.tensors import save_tensors
from tests.papers.planted import plant, row_of
from tests.reports import runs

NOISE = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SMALL = 0.01 * torch.randn(400, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def run(fd: float, *evaluations: str, **changes: Any) -> Evaluation:
    """The numbers of a run with these artifacts, one for each seed range."""
    seeds = [f"{400 * i}-{400 * i + 399}" for i in range(len(evaluations))]
    artifacts = {f"evaluate-{seed_range}": key for seed_range, key in zip(seeds, evaluations, strict=True)}
    within = {"quantized": {"fd": [fd - 0.1, fd + 0.1]}}
    numbers = {"quantized": {"fd": fd}, "intervals": within, "seeds": seeds, "artifacts": artifacts}
    return as_evaluation({**runs.metrics("tac"), **numbers, **changes})


def kept(folder: Path, key: str, influence: Tensor) -> None:
    (folder / key).mkdir(parents=True)
    save_tensors(folder / key / "influence.safetensors", {"fd": influence})
    runs.seal(folder / key)


@pytest.fixture
def pairs(tmp_path: Path) -> Pairs:
    for key, influence in (("a", NOISE), ("b", NOISE + SMALL), ("c", NOISE.flip(0)), ("d", NOISE - SMALL)):
        kept(tmp_path, key, influence)
    kept(tmp_path, "short", NOISE[:100])
    return Pairs(lambda key: tmp_path / key)


def test_the_noise_that_both_share_is_gone(pairs: Pairs) -> None:
    near, far = (pairs(run(1.0, "a"), run(1.01, other), "quantized", "fd") for other in ("b", "c"))
    assert near is not None and far is not None and near.half is not None and far.half is not None
    assert near.value == pytest.approx(-0.01)
    assert near.half == pytest.approx(1.96 * float(SMALL.std()) / 20, rel=1e-4) and far.half > 50 * near.half
    assert alike(run(1.0, "a"), run(1.01, "b"), "quantized", "fd", near) is False
    assert alike(run(1.0, "a"), run(1.01, "c"), "quantized", "fd", far) is True
    assert alike(run(1.0, "a"), run(1.01, "b"), "quantized", "fd") is True, "as independent numbers"


def test_ranges_are_independent_of_each_other(pairs: Pairs) -> None:
    both = pairs(run(1.0, "a", "a"), run(1.01, "b", "d"), "quantized", "fd")
    single = pairs(run(1.0, "a"), run(1.01, "b"), "quantized", "fd")
    assert both is not None and single is not None and both.half is not None and single.half is not None
    assert both.half == pytest.approx(single.half / math.sqrt(2))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (run(1.0, "a"), run(1.0, "gone")),
        (run(1.0, "a"), run(1.0, "short")),
        (run(1.0, "a"), run(1.0, "a", "b")),
        (run(1.0, "a"), run(1.0, "b", quantized={})),
        (run(1.0, "a"), run(1.0, "b", artifacts={})),
    ],
)
def test_what_cannot_be_paired_is_not(pairs: Pairs, one: Evaluation, other: Evaluation) -> None:
    assert pairs(one, other, "quantized", "fd") is None and pairs.used == {}


def test_a_table_is_judged_by_pairs_also_where_the_artifacts_are_gone(tmp_path: Path) -> None:
    table, evaluated = paper_table("tac_3"), tmp_path / "artifacts" / "evaluate"
    rows = {"Baseline [24]": ("a", NOISE, 1.0), "+IBC+ Timestep-Aware": ("b", NOISE + SMALL, 0.99)}
    for method, (key, influence, fd) in rows.items():
        plant(tmp_path / "tables", table, row_of(table, method, "3/8"), fd, artifacts={"evaluate-0-1999": key})
        kept(evaluated, key, influence)
    claim = "IBC alone is better than Q-Diffusion: holds as learned once. Baseline [24] at w3a8 (0.99 < 1: -0.01 ± 0.00"
    folder, text = papers.write_table("tac_3", "digits", tmp_path)
    assert claim in text
    assert read_json(folder / "differences.json").keys() == {"b a"}
    shutil.rmtree(evaluated)
    assert papers.write_table("tac_3", "digits", tmp_path)[1] == text
    (folder / "differences.json").unlink()
    assert "IBC alone is better than Q-Diffusion: not told apart" in papers.write_table("tac_3", "digits", tmp_path)[1]


def test_a_difference_knows_its_sign(pairs: Pairs) -> None:
    difference = pairs(run(1.0, "a"), run(2.0, "b"), "quantized", "fd")
    assert difference is not None and difference.value == -1.0
