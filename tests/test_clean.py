"""What `dmq clean` never touches, what `dmq verify` finds, and that neither lets a file act on the terminal."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.errors import ArtifactError
from dmq_cli.store import ArtifactStore, digest, read_json, write_json
from tests.chain import Result, dmq
from tests.test_inventory import (
    AA,
    AB,
    BB,
    CC,
    CD,
    DD,
    EE,
    FF,
    FOUND,
    KEPT,
    clean,
    plant,
    plant_run,
    planted,
    stored,
)  # fmt: skip


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """What `planted` plants."""
    return planted(tmp_path)


def test_clean_looks_again_after_its_prompt(outputs: Path) -> None:
    def answer(*arguments: Any, **more: Any) -> bool:
        """While the question stands, a run that needs one of the two ends, and somebody computes the other again."""
        plant_run(outputs, "20260103-9", sample=FF)
        return True

    with patch("sys.stdin") as terminal, patch("click.confirm", side_effect=answer):
        terminal.isatty.return_value = True
        result = clean(outputs)
    assert result.code == 0 and "Removed 1 artifacts" in result.out, result.err
    assert stored(outputs) == KEPT | {FF}


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_clean_leaves_alone_what_dmq_did_not_make(outputs: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    work, artifacts = tmp_path_factory.mktemp("work"), outputs / "artifacts"
    for name in (AB, CD, "thesis", f".work-{EE}"):
        (work / name).mkdir()
        (work / name / "file").write_text("years", encoding="utf-8")
    plant(work.parent / work.name, "sample", BB)  # even artifacts, if they lie behind a link
    for name in ("mystuff", "trace", "targets"):
        (artifacts / name).symlink_to(work)
    (artifacts / "sample" / AB).symlink_to(work / "artifacts" / "sample" / BB)
    (artifacts / "sample" / f".work-{CD}").symlink_to(work / CD)
    (artifacts / "sample" / "notes").mkdir()
    (artifacts / "sample" / "notes" / "a").write_text("b", encoding="utf-8")
    (artifacts / "own" / AB).mkdir(parents=True)
    swapped = plant(outputs, "calibset", CD)
    write_json(swapped / "manifest.json", {**read_json(swapped / "manifest.json"), "key": AB})
    before = files_below(work)
    result = clean(outputs, "--yes")
    assert result.code == 0 and "Removed 2 artifacts" in result.out, result.err
    assert files_below(work) == before
    left = {artifacts / name for name in ("mystuff", "trace", "targets", "own", "sample/notes", f"sample/{AB}")}
    for path in left | {swapped}:
        assert path.exists() and f"Left alone, as dmq did not make it: {path}\n" in result.out + "\n"
    assert (artifacts / "sample" / f".work-{CD}").is_symlink() and not (artifacts / "sample" / FF).exists()


def test_clean_goes_through_linked_outputs_but_not_through_linked_artifacts(outputs: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "artifacts").symlink_to(outputs / "artifacts")  # what the runs of `outputs` need is not known there
    result = clean(other, "--yes")
    assert result.code == 0 and "Nothing to remove." in result.out and f"{other / 'artifacts'}" in result.out
    assert stored(outputs) == KEPT | {EE, FF}
    (tmp_path / "linked").symlink_to(outputs)
    assert clean(tmp_path / "linked", "--yes").code == 0 and stored(outputs) == KEPT


def test_nothing_is_forced_away_through_a_link(outputs: Path, tmp_path: Path) -> None:
    store, elsewhere = ArtifactStore(outputs / "artifacts"), tmp_path / "elsewhere"
    (store.root / "sample").rename(elsewhere)
    (store.root / "sample").symlink_to(elsewhere)
    with pytest.raises(ArtifactError, match="nothing is removed through links"):
        store.remove("sample", FF)
    assert (elsewhere / FF / "data.bin").exists()


def verify(outputs: Path, *more: str) -> Result:
    return dmq("verify", f"runtime.outputs={outputs}", *more)


def test_verify_says_what_is_damaged(outputs: Path) -> None:
    whole = verify(outputs, f"calibset/{AA[:8]}", str(outputs / "artifacts" / "sample" / FF))
    assert whole.code == 0 and whole.out.split() == ["ok", f"calibset/{AA}", "ok", f"sample/{FF}"]
    file = outputs / "artifacts" / "sample" / FF / "data.bin"
    file.write_bytes(b"1" + file.read_bytes()[1:])
    plant_run(outputs, "20260105-1", sample=FF, correct=DD)
    for words in ((), (str(outputs / "runs" / "evaluate" / "20260105-1"),), (f"sample/{FF[:4]}",)):
        result = verify(outputs, *words)
        assert result.code == 1 and "damaged: " in result.sentence and f"sample/{FF}" in result.sentence, result.err
        (line,) = [line for line in result.out.splitlines() if "data.bin was altered" in line]
        assert line.startswith(f"damaged  sample/{FF}")
    report = json.loads(verify(outputs, f"sample/{FF}", "--json").out)
    assert (report["exit_code"], [row["state"] for row in report["checked"]]) == (1, ["damaged"])
    for wrong in ("sample/00", "nothing", "sample/", str(outputs)):
        assert verify(outputs, wrong).code == 2


def test_verify_reads_everything(outputs: Path) -> None:
    cell = outputs / "tables" / "main" / "cell"
    result = verify(outputs)
    assert result.code == 1 and str(cell) in result.sentence, "its metrics have no configuration"
    config = {"a": 1}
    named = outputs / "tables" / "main" / f"tiny-{CC[:8]}"
    cell.rename(named)
    write_json(named / "manifest.json", {"artifacts": {"evaluate-0-9": CC}, "key": CC})
    sha256 = {"config": config, "config_sha256": digest(config)}
    write_json(named / "metrics.json", {**FOUND, **sha256, "artifacts": {"evaluate-0-9": CC}})
    for run in (outputs / "runs" / "evaluate").iterdir():
        (run / "metrics.json").unlink(missing_ok=True)
    assert verify(outputs).code == 0 and len(verify(outputs).out.splitlines()) == 8


def test_escape_sequences_of_files_reach_no_terminal(outputs: Path) -> None:
    evil = "\x1b]0;owned\x07\x1b[2J\u202egnp\x9b31m\nforged done FD 0.00"
    named = {"model": {"name": evil}, "method": {"name": evil}, "bits": {"name": "w3a8"}}
    run = plant_run(outputs, "20260104-1", status=f"failed: {evil}")
    write_json(run / "config.json", named)
    (outputs / "artifacts" / "sample" / "evil\x1b[2J").mkdir()
    (outputs / "artifacts" / "stage\x1b[2J").mkdir()
    damaged = outputs / "artifacts" / "sample" / FF / "manifest.json"
    write_json(damaged, {**read_json(damaged), "stage": evil})
    results = [dmq("list", what, f"runtime.outputs={outputs}") for what in ("runs", "artifacts")]
    results += [clean(outputs, "--dry-run"), verify(outputs), dmq("report", str(run)), verify(outputs, str(run) + evil)]
    for result in results:
        text = result.out + result.err
        assert not any(unicodedata.category(char) in ("Cc", "Cf") for char in text.replace("\n", "")), repr(text)
    assert not any(line.startswith("forged") for result in results for line in result.out.splitlines())
    assert r"\x1b]0;owned\x07" in results[0].out
