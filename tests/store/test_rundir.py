from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dmq_cli.errors import ArtifactCorruptError, DiskError, NumericsError
from dmq_cli.store import create_run, is_alive, read_json, write_json

KEY = "0123456789abcdef"


def test_a_run_folder(tmp_path: Path) -> None:
    run = create_run(tmp_path / "runs", "evaluate", KEY, {"bits": {"weight": 3}})
    assert re.fullmatch(r"\d{8}-\d{6}-01234567(-\d+)?", run.path.name)
    assert run.path.parent == tmp_path / "runs" / "evaluate"
    assert run.log == run.path / "run.log"
    assert read_json(run.path / "config.json") == {"bits": {"weight": 3}}
    status = read_json(run.path / "status.json")
    assert status["status"] == "running"
    assert status["finished"] is None
    run.finish("failed: the disk is full.")
    ended = read_json(run.path / "status.json")
    assert (ended["status"], ended["started"]) == ("failed: the disk is full.", status["started"])
    assert datetime.fromisoformat(ended["finished"]) >= datetime.fromisoformat(ended["started"])
    assert read_json(run.write_json("metrics.json", {"fid": 3.5})) == {"fid": 3.5}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "done"),
        (NumericsError("the loss is nan."), "failed: the loss is nan."),
        (RuntimeError("inside"), "failed: RuntimeError"),
    ],
)
def test_a_run_ends_with_its_block(error: Exception | None, status: str, tmp_path: Path) -> None:
    run = create_run(tmp_path, "train", KEY, {})
    with pytest.raises(type(error)) if error else nullcontext(), run:
        if error:
            raise error
    ended = read_json(run.path / "status.json")
    assert ended["status"] == status and ended["finished"] and not is_alive(run.path)


def test_runs_of_the_same_second_are_different(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        runs = list(pool.map(lambda number: create_run(tmp_path, "sample", KEY, {"n": number}), range(24)))
    assert len({run.path for run in runs}) == 24
    assert [read_json(run.path / "config.json")["n"] for run in runs] == list(range(24))
    assert any(run.path.name.endswith("-01234567-2") for run in runs)


def test_links_are_relative_and_follow_the_tree(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "outputs").symlink_to("disk")
    outputs = tmp_path / "outputs"
    artifact = outputs / "artifacts" / "sample" / KEY
    artifact.mkdir(parents=True)
    (artifact / "x").write_text("1")
    run = create_run(outputs / "runs", "evaluate", KEY, {})
    link = run.link("sample", artifact)
    assert link == run.path / "artifacts" / "sample"
    assert not os.path.isabs(os.readlink(link))
    assert (link / "x").read_text() == "1"
    (tmp_path / "disk").rename(tmp_path / "elsewhere")
    moved = tmp_path / "elsewhere" / "runs" / "evaluate" / run.path.name / "artifacts"
    assert (moved / "sample" / "x").read_text() == "1"


def test_a_link_is_replaced(tmp_path: Path) -> None:
    run = create_run(tmp_path, "evaluate", KEY, {})
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        link = run.link("sample", tmp_path / name)
    assert link.resolve() == tmp_path / "two"
    assert [path.name for path in link.parent.iterdir()] == ["sample"]


def test_write_json_keeps_the_old_file_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"old": 1})
    with pytest.raises(NumericsError, match=r"x\.json .* NaN or infinite"):
        write_json(path, {"new": float("inf")})

    def broken(*arguments: Any) -> None:
        raise OSError("broken")

    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="broken"):
        write_json(path, {"new": 1})
    assert read_json(path) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, None])
def test_read_json_of_something_else(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ArtifactCorruptError, match=r"x\.json was to be read as JSON"):
        read_json(tmp_path / "x.json")


def test_a_run_on_a_bad_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*arguments: Any, **keywords: Any) -> None:
        raise PermissionError(13, "no")

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(DiskError, match=r"Starting a run of sample stopped at .*runs: Permission denied"):
        create_run(tmp_path / "runs", "sample", KEY, {})
