"""What `dmq clean --runs` takes away, and what it never touches."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from unittest.mock import patch

import pytest

from dmq_cli.store import create_run
from tests.chain import Result, dmq
from tests.test_inventory import NAMED, plant_run, planted


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """Three runs that are over (one failed), artifacts and a cell."""
    return planted(tmp_path / "outputs")


def clean(outputs: Path, *more: str) -> Result:
    return dmq("clean", "--runs", f"runtime.outputs={outputs}", *more)


def runs(outputs: Path) -> list[str]:
    return sorted(path.name for path in (outputs / "runs").glob("*/*"))


ALL = ["20260102-1", "20260102-2", "20260102-3"]


def test_runs_go_and_nothing_else(outputs: Path) -> None:
    others = {path for path in outputs.rglob("*") if "runs" not in path.parts}
    shown = clean(outputs, "--dry-run")
    assert shown.code == 0 and runs(outputs) == ALL, shown.err
    assert [line.split()[-1].rpartition("/")[2] for line in shown.out.splitlines()[:-1]] == ALL
    assert "tiny  tac  w3a8  failed: a reason" in shown.out and "Over: 3 runs" in shown.out
    assert clean(outputs).code == 2 and "dmq clean --runs --yes" in clean(outputs).sentence and runs(outputs) == ALL
    removed = clean(outputs, "--yes")
    assert "Removed 3 runs" in removed.out and "goes with: dmq clean." in removed.out and runs(outputs) == []
    assert {path for path in outputs.rglob("*") if "runs" not in path.parts} == others
    assert "No run to remove." in clean(outputs, "--yes").out


def test_which_runs(outputs: Path) -> None:
    old = time.time() - 10 * 86400
    for name in ALL[:2]:
        os.utime(outputs / "runs" / "evaluate" / name / "status.json", (old, old))
    printed = json.loads(clean(outputs, "--dry-run", "--older-than", "7d", "--json").out)
    assert [Path(run).name for run in printed["runs"]] == ALL[:2] and not printed["removed"] and printed["bytes"] > 0
    assert clean(outputs, "--yes", "--keep", "2").code == 0 and runs(outputs) == ALL[1:]
    assert clean(outputs, "--yes", "--keep", "5").code == 0 and runs(outputs) == ALL[1:]
    assert clean(outputs, "--yes", "--keep", "1", "--older-than", "7d").code == 0 and runs(outputs) == ALL[2:]
    result = dmq("clean", "--keep", "2", f"runtime.outputs={outputs}")
    assert result.code == 2 and "write dmq clean --runs --keep 2" in result.sentence


def test_runs_under_way_stay_and_killed_ones_go(outputs: Path) -> None:
    alive = create_run(outputs / "runs", "sample", "0" * 32, {**NAMED, "stage": "sample"})
    plant_run(outputs, "20260102-4", status="running")  # nobody holds its lock
    assert clean(outputs, "--yes").code == 0 and runs(outputs) == [alive.path.name]
    alive.finish("done")
    assert clean(outputs, "--yes").code == 0 and runs(outputs) == []


def test_looks_again_after_the_question(outputs: Path) -> None:
    def answer(*_: object, **__: object) -> bool:
        (outputs / "runs" / "evaluate" / ALL[0] / "thesis.txt").write_text("years", encoding="utf-8")
        return True

    with patch("sys.stdin") as terminal, patch("click.confirm", side_effect=answer):
        terminal.isatty.return_value = True
        result = clean(outputs)
    assert "Removed 2 runs" in result.out and runs(outputs) == ALL[:1]


def test_what_dmq_did_not_make_stays(outputs: Path, tmp_path: Path) -> None:
    place = outputs / "runs" / "evaluate"
    (place / ALL[0] / "notes.md").write_text("mine", encoding="utf-8")
    (place / ALL[1] / "artifacts" / "sample").mkdir(parents=True)  # of a run that was unpacked: nowhere else
    (place / "thesis").mkdir()
    elsewhere = plant_run(tmp_path / "elsewhere", "20260102-9")
    (place / "20260102-9").symlink_to(elsewhere)
    trained = outputs / "runs" / "train"
    trained.mkdir()
    plant_run(outputs, "20260102-8").rename(trained / "20260102-8")
    result = clean(outputs, "--yes")
    assert "Removed 1 runs" in result.out and elsewhere.is_dir(), result.err
    for name in (ALL[0], ALL[1], "thesis"):
        assert f"Left alone, as it is not what dmq leaves of a run: {place / name}" in result.out
    assert runs(outputs) == sorted([*ALL[:2], "20260102-8", "20260102-9", "thesis"])


def test_a_linked_folder_of_runs_is_not_entered(outputs: Path, tmp_path: Path) -> None:
    (outputs / "runs").rename(tmp_path / "real")
    (outputs / "runs").symlink_to(tmp_path / "real")
    assert "No run to remove." in clean(outputs, "--yes").out and runs(outputs) == ALL
