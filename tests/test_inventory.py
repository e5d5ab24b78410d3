"""What `dmq list` finds in outputs/, and what `dmq clean` takes away: planted runs, cells and artifacts, needed and not."""

from __future__ import annotations

import fcntl
import gc
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.choices import names, read_choice
from dmq_cli.cli.commands.clean import seconds, unneeded
from dmq_cli.errors import ArtifactError, ConfigError
from dmq_cli.paths import conf_folder
from dmq_cli.results.inventory import STAGES, TRAINED, artifacts, runs
from dmq_cli.store import create_run, write_json
from dmq_cli.store.integrity import record_files
from tests.chain import Result, dmq
from tests.listening import listening

NAMED = {"model": {"name": "tiny"}, "method": {"name": "tac"}, "bits": {"name": "w3a8"}}
AA, BB, CC, DD, EE, FF, NN, AB, CD = (word * 16 for word in ["aa", "bb", "cc", "dd", "ee", "ff", "99", "ab", "cd"])
FOUND: dict[str, Any] = {
    "protocol": {"columns": {"fd": "FD-digits", "is": "IS-digits"}},
    "model": "tiny",
    "method": "tac",
    "bits": "w3a8",
    "config": {},
    "artifacts": {},
    "seeds": ["0-9"],
    "fp": {},
    "quantized": {"fd": 0.5},
    "paired": {"psnr": 30.0},
}


def plant_run(outputs: Path, name: str, status: str = "done", **needs: str) -> Path:
    folder = outputs / "runs" / "evaluate" / name
    write_json(folder / "config.json", {**NAMED, "stage": "evaluate"})
    write_json(folder / "status.json", {"status": status, "started": "2026-01-02T03:04:05+00:00", "finished": None})
    if status == "done":
        write_json(folder / "manifest.json", {"artifacts": needs})
        write_json(folder / "metrics.json", FOUND)
    return folder


def plant(outputs: Path, stage: str, key: str, days: float = 0.0, size: int = 1000) -> Path:
    folder = outputs / "artifacts" / stage / key
    folder.mkdir(parents=True)
    (folder / "data.bin").write_bytes(b"0" * size)
    write_json(folder / "manifest.json", {"stage": stage, "key": key, "files": record_files(folder)})
    (folder.parent / f".lock-{key.removeprefix('.work-')}").touch()
    os.utime(folder, (time.time() - days * 86400,) * 2)
    return folder


def planted(tmp_path: Path) -> Path:
    """Artifacts needed by a run's manifest, by its link only, by a cell, by two, by nothing; and trained ones."""
    first = plant_run(tmp_path, "20260102-1", **{"calibset": AA, "sample_fp-0-9": BB})
    plant_run(tmp_path, "20260102-2", calibset=AA)
    plant_run(tmp_path, "20260102-3", status="failed: a reason")
    write_json(tmp_path / "tables" / "main" / "cell" / "manifest.json", {"artifacts": {"evaluate-0-9": CC}})
    write_json(tmp_path / "tables" / "main" / "cell" / "metrics.json", FOUND)
    for stage, key in (("calibset", AA), ("sample_fp", BB), ("evaluate", CC), ("correct", DD)):
        plant(tmp_path, stage, key)
    (first / "artifacts").mkdir()
    (first / "artifacts" / "correct").symlink_to(f"../../../../artifacts/correct/{DD}")
    plant(tmp_path, "calibset", EE, days=10)
    plant(tmp_path, "sample", FF, size=2_000_000)
    plant(tmp_path, "train_unet", NN)
    return tmp_path


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    """What `planted` plants."""
    return planted(tmp_path)


def clean(outputs: Path, *more: str) -> Result:
    return dmq("clean", f"runtime.outputs={outputs}", *more)


def stored(outputs: Path) -> set[str]:
    return {path.name for path in (outputs / "artifacts").glob("*/*") if not path.name.startswith(".lock")}


KEPT = {AA, BB, CC, DD, NN}


def test_clean_removes_what_nothing_needs_and_nothing_else(outputs: Path) -> None:
    others = {path for path in outputs.rglob("*") if "artifacts" not in path.parts}
    shown = clean(outputs, "--dry-run")
    assert shown.code == 0 and "2 artifacts and leftovers, 2.0 MB" in shown.out and "sample" in shown.out
    assert stored(outputs) == KEPT | {EE, FF}
    report = json.loads(clean(outputs, "--yes", "--older-than", "7d", "--json").out)
    assert report["removed"] and 1000 < report["bytes"] < 1500 and [row["key"] for row in report["artifacts"]] == [EE]
    assert stored(outputs) == KEPT | {FF}
    assert "Removed 1 artifacts and leftovers, 2.0 MB." in clean(outputs, "--yes").out
    assert stored(outputs) == KEPT and "Nothing to remove." in clean(outputs).out
    assert {path for path in outputs.rglob("*") if "artifacts" not in path.parts} == others


def test_clean_asks(outputs: Path) -> None:
    result = clean(outputs)
    assert result.code == 2 and "dmq clean --yes" in result.sentence and stored(outputs) == KEPT | {EE, FF}
    with patch("sys.stdin") as terminal, patch("click.confirm", return_value=False) as prompt:
        terminal.isatty.return_value = True
        refused = clean(outputs)
    assert refused.code == 0 and "Nothing was removed." in refused.out and "2.0 MB" in prompt.call_args[0][0]
    assert stored(outputs) == KEPT | {EE, FF} and "sample" in refused.err, "what would go is shown first"


@contextmanager
def working(outputs: Path, stage: str, key: str) -> Iterator[None]:
    """Somebody computes this artifact."""
    descriptor = os.open(outputs / "artifacts" / stage / f".lock-{key}", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_clean_leaves_what_is_being_computed_and_takes_what_a_kill_left(outputs: Path) -> None:
    for name in (f".work-{AB}", f".work-{CD}", f".trash-{FF}-12345678"):
        plant(outputs, "sample", name)
    with working(outputs, "sample", AB), working(outputs, "sample", FF):
        left = {(artifact.key, artifact.leftover) for artifact in unneeded(outputs)}
        assert left == {(EE, False), (CD, True)}
        assert clean(outputs, "--yes").code == 0
        assert stored(outputs) == KEPT | {FF, f".work-{AB}", f".trash-{FF}-12345678"}
    assert clean(outputs, "--yes").code == 0 and stored(outputs) == KEPT


@contextmanager
def under_way(folder: Path) -> Iterator[None]:
    """The run's process is there."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    yield
    os.close(descriptor)


def test_clean_keeps_what_a_run_under_way_will_need_and_frees_what_a_killed_one_left(outputs: Path) -> None:
    from dmq_cli.stages import verbs

    run = plant_run(outputs, "20260102-4", status="running")
    plant(outputs, "sample", f".work-{AB}")
    with under_way(run):
        with patch.object(verbs, "needs", lambda config: {("sample", FF), ("sample", AB)}):
            assert {artifact.key for artifact in unneeded(outputs)} == {EE}
        with pytest.raises(ArtifactError, match=f"The run {run} is under way, but what it needs cannot be told"):
            list(unneeded(outputs))
        assert [row["state"] for row in runs(outputs)][-1] == "running"
    assert {artifact.key for artifact in unneeded(outputs)} == {EE, FF, AB}
    assert [row["state"] for row in runs(outputs)][-1] == "killed"


def test_a_run_holds_its_folder_until_it_ends(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", "sample", "0" * 32, {**NAMED, "stage": "sample"})
    assert [row["state"] for row in runs(tmp_path)] == ["running"]
    run.finish("done")
    assert [row["state"] for row in runs(tmp_path)] == ["done"]
    assert sorted(path.name for path in run.path.iterdir()) == ["config.json", "status.json"]
    killed = create_run(tmp_path / "runs", "sample", "1" * 32, {**NAMED, "stage": "sample"})
    del killed
    gc.collect()
    assert sorted(row["state"] for row in runs(tmp_path)) == ["done", "killed"]


def test_the_stages_known_here_are_all() -> None:
    from dmq_cli.stages import nodes, train

    assert (tuple(sorted(nodes.NODES, key=STAGES.index)), tuple(train.NODES)) == (STAGES, TRAINED)


BAD = (
    "{",
    "[]",
    "null",
    "5",
    '"x"',
    "[" * 3000 + "]" * 3000,
    '{"artifacts": 5, "model": 1, "status": [], "stage": {}}',
)


@pytest.mark.parametrize("content", BAD)
def test_no_file_of_a_run_breaks_a_list(outputs: Path, content: str) -> None:
    names = ("config.json", "status.json", "metrics.json", "manifest.json")
    broken = [plant_run(outputs, f"20260109-{name}") for name in names]
    for run, name in zip(broken, names, strict=True):
        (run / name).write_text(content, encoding="utf-8")
    (outputs / "tables" / "main" / "cell" / "manifest.json").write_text(content, encoding="utf-8")
    (outputs / "artifacts" / "sample" / FF / "manifest.json").write_text(content, encoding="utf-8")
    for command in ("list runs", "list artifacts", "clean --yes"):
        result = dmq(*command.split(), f"runtime.outputs={outputs}")
        assert result.code == 0 and not result.err, result.err
    for run in broken:
        for words in (("report", str(run)), ("compare", str(run), str(run)), ("verify", str(run))):
            result = dmq(*words)
            assert result.code in (1, 2) and result.sentence


@pytest.mark.parametrize("value", ["x", None, [], {}, True])
def test_a_number_that_is_none_makes_a_run_broken(outputs: Path, value: Any) -> None:
    run = outputs / "runs" / "evaluate" / "20260102-2"
    write_json(run / "metrics.json", {**FOUND, "quantized": {"fd": value}})
    assert {Path(row["run"]).name: row["state"] for row in runs(outputs)}["20260102-2"] == "broken"
    assert dmq("list", "runs", f"runtime.outputs={outputs}").code == 0


def test_every_file_is_opened_once(tmp_path: Path) -> None:
    """Ten times as many cost ten times as much: a folder is scanned once, a file of a run opened once."""
    counts = []
    for number in (5, 50):
        outputs = tmp_path / str(number)
        for index in range(number):
            key = f"{index:032x}"
            plant(outputs, STAGES[index % 11], key, size=1)
            plant_run(outputs, f"2026-{index}", **{STAGES[index % 11]: key})
        opened: list[str] = []

        def noted(name: str, arguments: tuple[Any, ...], opened: list[str] = opened, below: str = str(outputs)) -> None:
            if name in ("open", "os.scandir", "os.listdir") and str(arguments[0]).startswith(below):
                opened.append(f"{name} {arguments[0]}")

        with listening(noted):
            assert len(artifacts(outputs)) == number
            assert len(runs(outputs)) == number
        files = [entry for entry in opened if entry.startswith("open") and "manifest" not in entry]
        assert len(files) == len(set(files)) == 3 * number
        counts.append(len(opened))
    assert counts[1] <= 10 * counts[0]


@pytest.mark.parametrize(("age", "wanted"), [("30m", 1800), ("12h", 43200), ("7d", 604800), ("2w", 1209600), (None, 0)])
def test_ages(age: str | None, wanted: float) -> None:
    assert seconds(age) == wanted


@pytest.mark.parametrize("age", ["7", "d", "-1d", "1.5d", "7 days"])
def test_words_that_are_no_age(age: str) -> None:
    with pytest.raises(ConfigError, match="7d"):
        seconds(age)


def test_list_runs_tells_broken_ones(outputs: Path) -> None:
    (outputs / "runs" / "evaluate" / "20260102-2" / "metrics.json").write_text("{", encoding="utf-8")
    (outputs / "runs" / "sample" / "20260101-0").mkdir(parents=True)
    rows = {Path(row["run"]).name: row for row in runs(outputs)}
    assert [row["state"] for row in rows.values()] == ["broken", "done", "broken", "failed: a reason"]
    good = rows["20260102-1"]
    assert (good["verb"], good["model"], good["method"], good["bits"]) == ("evaluate", "tiny", "tac", "w3a8")
    assert good["numbers"] == {"FD-digits": 0.5, "PSNR": 30.0}
    result = dmq("list", "runs", f"runtime.outputs={outputs}")
    assert result.code == 0 and len(result.out.splitlines()) == 4 and "FD-digits 0.50, PSNR 30.00" in result.out


def plant_named(
    outputs: Path, number: int, bits: dict[str, Any], overrides: list[str] | None, fd: float | None
) -> None:
    folder = plant_run(outputs, f"20260102-{number}", status="done" if fd else "failed: a reason")
    config: dict[str, Any] = {
        **NAMED,
        "bits": bits,
        "protocol": {"name": "digits", "num_images": 2000},
        "budget": {"name": "smoke"},
    }
    config["seeds"] = ["0-39", "40-79"] if number % 2 else "7-46"
    write_json(folder / "config.json", config if overrides is None else {**config, "overrides": overrides})
    command = "dmq evaluate model=tiny method=tac bits=w3a8 correct.ibc=false runtime.threads=1"
    write_json(folder / "manifest.json", {"artifacts": {}, "command": command})
    if fd:
        write_json(folder / "metrics.json", {**FOUND, "quantized": {"fd": fd}})


@pytest.fixture
def named(tmp_path: Path) -> Path:
    bits = {"name": "w3a8", "weight": 3, "act": 8}
    plant_named(tmp_path, 1, bits, [], 0.7)
    plant_named(tmp_path, 2, {**bits, "weight": 5}, ["correct.ner=false"], 0.5)
    plant_named(tmp_path, 3, bits, None, 0.6)
    plant_named(tmp_path, 4, bits, ["recon.seed=1", "correct.ner=false"], None)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], [1, 2, 3, 4]), (["bits=w5a8"], [2]), (["bits=w3a8,w5a8", "--failed"], [4]), (["bits=w*", "state=done"], [1, 2, 3]),
        (["correct.ner=false"], [2, 4]), (["overrides=correct.ner=*"], [2, 4]), (["correct.ibc=false"], [3]),
        (["--sort", "fd"], [2, 3, 1, 4]), (["--sort", "FD-digits", "--reverse"], [1, 3, 2, 4]), (["--last", "2"], [3, 4]),
        (["--sort", "fd", "--last", "3"], [2, 3, 4]), (["images=40", "budget=smoke", "protocol=digits", "model=tiny"], [1, 2, 3, 4]),
        (["method=minmax"], []),
    ],
)  # fmt: skip
def test_runs_are_filtered_and_sorted(words: list[str], wanted: list[int], named: Path) -> None:
    command = ["list", "runs", f"runtime.outputs={named}", *words]
    rows = json.loads(dmq(*command, "--json").out)["runs"]
    assert [int(row["run"][-1]) for row in rows] == wanted
    plain = dmq(*command)
    if wanted:
        assert [int(line.partition("20260102-")[2][0]) for line in plain.out.splitlines()] == wanted
    else:
        assert plain.out == f"There are no runs like this in {named}.\n"


def test_a_list_shows_what_was_done(named: Path) -> None:
    lines = dmq("list", "runs", f"runtime.outputs={named}").out.splitlines()
    assert "2026-01-02 03:04  evaluate  tiny  tac  w5a8  done" in lines[1] and lines[1].endswith("correct.ner=false")
    assert "digits  40  smoke" in lines[1] and lines[3].endswith("a reason; recon.seed=1 correct.ner=false")


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["runs", "methd=tac"], "no column methd. Did you mean method?"),
        (["runs", "--sort", "fdd"], "no column fdd. Did you mean fd?"),
        (["runs", "tac"], "no COLUMN=VALUE"),
        (["models", "bits=w3a8"], "no column bits."),
        (["models", "--failed"], "--failed means nothing there"),
    ],
)
def test_columns_that_a_list_does_not_have(words: list[str], part: str, tmp_path: Path) -> None:
    result = dmq("list", *words, f"runtime.outputs={tmp_path}")
    assert result.code == 2 and part in result.sentence


def test_list_artifacts_counts_who_needs_them(outputs: Path) -> None:
    rows: dict[str, dict[str, Any]] = {row["key"]: row for row in artifacts(outputs)}
    assert {key: row["used"] for key, row in rows.items()} == {
        AA: 2, BB: 1, CC: 1, DD: 1, EE: 0, FF: 0, NN: 0,
    }  # fmt: skip
    assert 2_000_000 < rows[FF]["bytes"] < 2_001_000 and 9.9 < rows[EE]["age"] / 86400 < 10.1
    entries = json.loads(dmq("list", "artifacts", f"runtime.outputs={outputs}", "--json").out)["artifacts"]
    assert [(row["stage"], row["key"]) for row in entries] == [(row["stage"], row["key"]) for row in rows.values()]


def test_list_tables_counts_cells(outputs: Path) -> None:
    rows = {
        row["name"]: row
        for row in json.loads(dmq("list", "tables", f"runtime.outputs={outputs}", "--json").out)["tables"]
    }
    assert rows["main"] == {"name": "main", "kind": "own", "finished": 1, "total": 6}
    assert (rows["tac_parts"]["total"], rows["tac_parts"]["finished"]) == (8, 0)
    parts = [
        read_choice(file)["hydra"]["sweeper"]["params"] for file in (conf_folder() / "table").glob("digits_ptq*.yaml")
    ]
    cells = [math.prod(len(str(values).split(",")) for values in params.values()) for params in parts]
    assert len(parts) == 4 and rows["digits_ptq"]["total"] == sum(cells) > 78, "all its parts"
    assert "1/6 cells" in dmq("list", "tables", f"runtime.outputs={outputs}").out


def test_list_protocols_says_whether_their_weights_are_here(tmp_path: Path) -> None:
    rows = {row["name"]: row for row in json.loads(dmq("list", "protocols", "--json").out)["protocols"]}
    assert set(rows) == set(names("protocol"))
    assert rows["digits"] == {
        "name": "digits", "extractor": "digits_cnn", "images": 2000, "columns": ["FD-digits", "IS-digits"], "present": True,
    }  # fmt: skip
    assert not rows["fid_torch_fidelity"]["present"]
    assert dmq("list", "runs", f"runtime.outputs={tmp_path}").out == f"There are no runs in {tmp_path}.\n"
    assert dmq("list", "runs", "modle=x").code == 2


def test_thousands_of_artifacts_are_listed_in_seconds(tmp_path: Path) -> None:
    for number in range(2000):
        folder = tmp_path / "artifacts" / "sample" / f"{number:032x}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text("{}", encoding="utf-8")
    start = time.monotonic()
    assert len(artifacts(tmp_path)) == 2000
    assert time.monotonic() - start < 10


def test_a_failed_run_moves_no_column_of_the_others(tmp_path: Path) -> None:
    plant_run(tmp_path, "20260102-1")
    plant_run(tmp_path, "20260102-2", status="failed: a reason\nof two lines, " + "long " * 30)
    done, failed = dmq("list", "runs", f"runtime.outputs={tmp_path}").out.splitlines()
    assert "  done    FD-digits" in done and done.endswith("20260102-1")
    assert "  failed  " in failed and failed.index("20260102-2") == done.index("20260102-1")
    assert "20260102-2  a reason of two lines, long" in failed
