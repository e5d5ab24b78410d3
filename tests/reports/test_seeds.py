"""The table over seeds of the learning: what is grouped, which numbers are taken off which."""

from __future__ import annotations

from pathlib import Path

import pytest

from dmq_cli.errors import ConfigError
from dmq_cli.report.seeds import seeds_table
from dmq_cli.store import digest, write_json
from tests.reports import runs


def cell(outputs: Path, method: str, seed: int, fd: float, bits: str = "w3a8", training: bool = False) -> None:
    recon = (
        {"_target_": "dmq_cli.qat.Qat", "settings": {"seed": seed}}
        if training
        else {"_target_": "dmq_cli.recon.Reconstruction", "seed": seed}
    )
    numbers = runs.metrics(method, bits, fd, config={"recon": recon})
    folder = outputs / "tables" / "t" / f"{method}-{bits}-{seed}"
    write_json(folder / "metrics.json", {**numbers, "config_sha256": digest(numbers["config"])})


def rows(outputs: Path, base: str = "qdiffusion") -> list[list[str]]:
    text = seeds_table(outputs / "tables" / "t", base)
    return [
        [field.strip() for field in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ][2:]


def test_means_deviations_and_paired_differences(tmp_path: Path) -> None:
    for seed, (base, better) in enumerate([(0.6, 0.5), (0.8, 0.9), (1.0, 0.4)]):
        cell(tmp_path, "qdiffusion", seed, base)
        cell(tmp_path, "tac", seed, better)
    plain, corrected = rows(tmp_path)
    assert plain[:5] == ["w3a8", "qdiffusion", "0.80 ± 0.20", "0.60, 0.80, 1.00", ""]
    assert corrected[:5] == ["w3a8", "tac", "0.60 ± 0.26", "0.50, 0.90, 0.40", "\u22120.10, +0.10, \u22120.60"]


def test_widths_are_apart_and_a_row_learned_once_is_left_out(tmp_path: Path) -> None:
    cell(tmp_path, "qdiffusion", 0, 0.6)
    cell(tmp_path, "qdiffusion", 1, 0.7)
    cell(tmp_path, "tac", 2, 0.5)
    cell(tmp_path, "eda", 0, 0.5, bits="w4a4")
    cell(tmp_path, "eda", 1, 0.7, bits="w4a4")
    assert [(row[0], row[1], row[4]) for row in rows(tmp_path)] == [("w4a4", "eda", ""), ("w3a8", "qdiffusion", "")]


def test_seeds_of_a_training_count_and_only_shared_seeds_are_compared(tmp_path: Path) -> None:
    for seed in (0, 1):
        cell(tmp_path, "lsq", seed, 1.0 + seed, training=True)
        cell(tmp_path, "tdq_qat", seed + 1, 0.75, training=True)
    assert [row[4] for row in rows(tmp_path, base="lsq")] == ["", "\u22121.25"]


def test_rows_that_differ_in_more_than_their_seed_are_refused(tmp_path: Path) -> None:
    cell(tmp_path, "qdiffusion", 0, 0.6)
    cell(tmp_path, "qdiffusion", 1, 0.7, training=True)
    with pytest.raises(ConfigError, match="qdiffusion at w3a8 was learned with other settings"):
        rows(tmp_path)


def test_a_table_learned_once_is_refused(tmp_path: Path) -> None:
    cell(tmp_path, "qdiffusion", 0, 0.6)
    with pytest.raises(ConfigError, match="no row that was learned with several seeds"):
        seeds_table(tmp_path / "tables" / "t")
