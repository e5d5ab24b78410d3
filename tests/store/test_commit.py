"""A kill anywhere between the last file of a stage and its committed artifact costs nothing."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path

import pytest

from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.store import ArtifactStore, Claim, digest, file_sha256, read_json, write_json
from tests.listening import Killed, Killer, listening

KEY = "ab" * 16
FILES = {"deep/b": "more", "losses.json": "[\n 0,\n 1,\n 2\n]\n"}


def compute(claim: Claim, ran: list[str]) -> None:
    """A stage as reconstruct is: parts are scratch, the curves are made of them, and what is there is not made again."""
    for part in range(3):
        file = claim.work / "tmp-parts" / f"part-{part}.json"
        if not file.exists():
            ran.append(file.name)
            write_json(file, part)
    write_json(claim.work / "losses.json", [read_json(claim.work / "tmp-parts" / f"part-{n}.json") for n in range(3)])
    (claim.work / "deep").mkdir(exist_ok=True)
    (claim.work / "deep" / "b").write_text("more", encoding="utf-8")
    (claim.work / "deep" / ".x.tmp").write_text("scratch", encoding="utf-8")


def attempt(store: ArtifactStore, ran: list[str]) -> None:
    with store.claim("reconstruct", KEY) as claim:
        if claim.done is None:
            compute(claim, ran)
            claim.commit({"seconds": 1})


def whole(store: ArtifactStore) -> None:
    folder = store.verify("reconstruct", KEY)
    contents = {str(path.relative_to(folder)): path.read_text("utf-8") for path in folder.rglob("*") if path.is_file()}
    manifest = json.loads(contents.pop("manifest.json"))
    assert contents == FILES and [path.name for path in folder.parent.iterdir() if "work" in path.name] == []
    assert {entry["path"]: entry["sha256"] for entry in manifest["files"]} == {
        name: file_sha256(folder / name) for name in FILES
    }


def test_a_kill_at_any_step_is_gone_on_from(tmp_path: Path) -> None:
    operations: set[str] = set()
    for count in range(1, 60):
        store, ran = ArtifactStore(tmp_path / str(count)), list[str]()
        killer = Killer(store.root, count)
        try:
            with listening(killer):
                attempt(store, ran)
        except Killed:
            operations.add(killer.log[-1].partition(" ")[0])
            attempt(store, ran)
            committing = any("manifest" in event for event in killer.log)
            assert len(ran) <= (3 if committing else 4), "only a part that was just being made is made again"
            whole(store)
        else:
            break
    assert count > 25 and operations == {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"}


def test_a_second_kill_while_finishing_is_gone_on_from(tmp_path: Path) -> None:
    for count in range(1, 12):
        store, ran = ArtifactStore(tmp_path / str(count)), list[str]()
        with listening(lambda name, arguments: kill_at_removal(name, arguments)), pytest.raises(Killed):
            attempt(store, ran)
        try:
            with listening(Killer(store.root, count)):
                attempt(store, ran)
            break
        except Killed:
            attempt(store, ran)
            whole(store)
            assert len(ran) == 3
    assert count > 5


def kill_at_removal(name: str, arguments: tuple[object, ...]) -> None:
    if name == "os.remove" and str(arguments[0]).endswith(("part-0.json", "part-1.json", "part-2.json", "x.tmp")):
        raise Killed


@pytest.mark.parametrize("damage", ["altered", "gone", "more", "malformed", "another key"])
def test_a_manifest_that_its_files_do_not_bear_out_commits_nothing(damage: str, tmp_path: Path) -> None:
    store, ran = ArtifactStore(tmp_path), list[str]()
    with listening(kill_at_removal), pytest.raises(Killed):
        attempt(store, ran)
    work = tmp_path / "reconstruct" / f".work-{KEY}"
    if damage == "altered":
        (work / "deep" / "b").write_text("mord", encoding="utf-8")
    elif damage == "gone":
        (work / "deep" / "b").unlink()
    elif damage == "more":
        (work / "other").write_text("", encoding="utf-8")
    else:
        changed = {**read_json(work / "manifest.json"), "key": "0" * 32}
        (work / "manifest.json").write_text("{" if damage == "malformed" else json.dumps(changed), encoding="utf-8")
    with store.claim("reconstruct", KEY) as claim:
        assert claim.done is None and not (work / "manifest.json").exists()
        (work / "other").unlink(missing_ok=True)
        compute(claim, ran)
        claim.commit({})
    whole(store)
    assert len(ran) == 3, "the scratch was still there"


def commit(store: ArtifactStore, stage: str, config: dict[str, int], inputs: dict[str, str]) -> str:
    key = digest([stage, 2, config, list(inputs.values())])
    with store.claim(stage, key) as claim:
        (claim.work / "data").write_text(str(config), encoding="utf-8")
        claim.commit({"stage": stage, "key": key, "version": 2, "config": config, "inputs": inputs})
    return key


@pytest.mark.parametrize("seen", [False, True])
def test_an_artifact_is_what_its_folder_says(tmp_path: Path, seen: bool) -> None:
    store = ArtifactStore(tmp_path)
    first, second = (commit(store, "reconstruct", {"a": a}, {"calibset": "c" * 32}) for a in (1, 2))
    if seen:
        assert store.find("reconstruct", first) and store.verify("reconstruct", second)
    folder, other, aside = (tmp_path / "reconstruct" / name for name in (first, second, "aside"))
    folder.rename(aside)
    other.rename(folder)
    aside.rename(other)
    for key in (first, second):
        for look in (store.find, store.verify):
            with pytest.raises(
                ArtifactCorruptError, match=r"manifest.json is that of another artifact \(reconstruct .* delete"
            ):
                look("reconstruct", key)
    manifest = read_json(folder / "manifest.json")
    for change in ({"key": first}, {"key": first, "config": {"a": 1}, "inputs": {}}, {"key": first, "version": 1}):
        write_json(folder / "manifest.json", {**manifest, **change})
        with pytest.raises(ArtifactCorruptError, match="was edited"):
            store.find("reconstruct", first)
    (tmp_path / "correct").mkdir()
    folder.rename(tmp_path / "correct" / first)
    with pytest.raises(ArtifactCorruptError, match="another artifact"):
        store.find("correct", first)


@pytest.mark.parametrize("name", ["more.bin", "deep/more", ".hidden", "tmp-x", "link"])
def test_a_file_that_no_manifest_lists_is_noticed(tmp_path: Path, name: str) -> None:
    store = ArtifactStore(tmp_path)
    key = commit(store, "sample", {"a": 1}, {})
    file = tmp_path / "sample" / key / name
    file.parent.mkdir(exist_ok=True)
    file.symlink_to("nowhere") if name == "link" else file.write_text("", encoding="utf-8")
    with pytest.raises(ArtifactCorruptError, match=f"its file {name} is not in the manifest"):
        store.find("sample", key)


def test_who_computes_is_said_to_who_waits(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ArtifactStore(tmp_path)
    with store.claim("sample", KEY):
        assert store.busy("sample", KEY)
        who = json.loads((tmp_path / "sample" / f".lock-{KEY}").read_text("utf-8"))
        assert who["pid"] == os.getpid() and who["host"] == os.uname().nodename and who["since"][:2] == "20"
    assert not store.busy("sample", KEY)
    for content in ("", "{", "[]", "[" * 5000, '{"pid": "x"}'):
        (tmp_path / "sample" / f".lock-{KEY}").write_text(content, encoding="utf-8")
        descriptor = os.open(tmp_path / "sample" / f".lock-{KEY}", os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert store.busy("sample", KEY)
        os.close(descriptor)
