"""Rows that were learned with other seeds are found, and nothing else is taken for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.choices import composed
from dmq_cli.results.learned import LEAST, Learnings, learning_seed
from dmq_cli.results.record import Evaluation, backed_evaluations
from dmq_cli.store import digest, write_json
from tests.reports import runs


def planted(tables: Path, name: str, words: Sequence[str], fd: float, **changes: Any) -> Evaluation:
    """A finished cell of the table `name` with this distance."""
    config = composed(tuple(words))
    key = digest([words, fd, name])
    cell = {**runs.metrics(config["method"]["name"]), "config": config, "config_sha256": digest(config)}
    cell |= {"quantized": {"fd": fd}, "seeds": ["0-1999"], "artifacts": {}, **changes}
    folder = tables / name / f"cell-{key[:8]}"
    write_json(folder / "metrics.json", cell)
    write_json(folder / "manifest.json", {"key": key, "artifacts": {}})
    (evaluation,) = (cell for place, cell in backed_evaluations(folder.parent) if place == folder)
    return evaluation


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Two methods learned with three seeds; one of them corrected."""
    for seed, (first, second) in enumerate(((1.0, 1.5), (1.2, 1.6), (0.8, 1.4))):
        planted(tmp_path, "recon_seed", ("method=tac", "bits=w4a4", f"recon.seed={seed}"), first)
        planted(tmp_path, "recon_seed", ("method=qdiffusion", "bits=w4a4", f"recon.seed={seed}"), second)
    return tmp_path


def test_the_difference_is_over_the_seeds_that_both_were_learned_with(tables: Path) -> None:
    planted(tables, "recon_seed", ("method=tac", "bits=w4a4", "recon.seed=7"), 9.0)
    first = planted(tables, "a_table", ("method=tac", "bits=w4a4", "correct.seeds=1-128"), 1.0)
    second = planted(tables, "a_table", ("method=qdiffusion", "bits=w4a4"), 1.5)
    relearned = Learnings(tables)(first, second, "quantized", "fd")
    assert relearned is not None and relearned.difference is not None
    assert relearned.difference.seeds == pytest.approx((-0.5, -0.4, -0.6)), "seed 7 has no counterpart"
    assert relearned.difference.half == pytest.approx(4.302653 * 0.1 / 3**0.5, rel=1e-5)


def test_a_row_that_does_not_learn_is_the_same_for_every_seed(tables: Path) -> None:
    learned = planted(tables, "a_table", ("method=qdiffusion", "bits=w4a4"), 1.5)
    plain = planted(tables, "a_table", ("method=minmax", "bits=w4a4"), 20.0)
    assert learning_seed(plain) is None and learning_seed(learned) == 0
    relearned = Learnings(tables)(plain, learned, "quantized", "fd")
    assert relearned is not None and relearned.difference is not None
    assert relearned.difference.seeds == pytest.approx((18.5, 18.4, 18.6))
    assert Learnings(tables)(plain, plain, "quantized", "fd") is None


@pytest.mark.parametrize(
    "words",
    [
        ("method=qdiffusion", "bits=w4a8"),
        ("method=qdiffusion", "bits=w4a4", "calib.seeds=5-9"),
        ("method=qdiffusion", "bits=w4a4", "recon.passes.weights.iterations=7"),
        ("method=qdiffusion", "bits=w4a4", "model=ldm_digits"),
        ("method=qdiffusion", "bits=w4a4", "cond.guidance=2"),
        ("method=qdiffusion", "bits=w4a4", "numerics=bf16"),
        ("method=tac", "bits=w4a4", "correct.seeds=1-64"),
    ],
)
def test_another_setting_is_another_row(tables: Path, words: tuple[str, ...]) -> None:
    known = Learnings(tables)
    other = planted(tables, "a_table", words, 1.5)
    first = planted(tables, "a_table", ("method=tac", "bits=w4a4"), 1.0)
    relearned = known(first, other, "quantized", "fd")
    assert relearned is not None and relearned.difference is None


def test_too_few_seeds_and_other_images_give_no_interval(tables: Path) -> None:
    first = planted(tables, "a_table", ("method=lsq", "bits=w4a4"), 1.0)
    for seed in range(LEAST - 1):
        planted(tables, "qat_seed", ("method=lsq", "bits=w4a4", f"recon.settings.seed={seed}"), 1.0 + seed)
    plain = planted(tables, "a_table", ("method=minmax", "bits=w4a4"), 20.0)
    elsewhere = planted(tables, "b_table", ("method=qdiffusion", "bits=w4a4"), 1.5, seeds=["5000-5999"])
    known = Learnings(tables)
    for pair in ((first, plain), (elsewhere, plain)):
        relearned = known(*pair, "quantized", "fd")
        assert relearned is not None and relearned.difference is None
    planted(tables, "qat_seed", ("method=lsq", "bits=w4a4", "recon.settings.seed=2"), 3.0)
    relearned = Learnings(tables)(first, plain, "quantized", "fd")
    assert relearned is not None and relearned.difference is not None
