from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.errors import ArtifactCorruptError, ArtifactError, DiskError, NumericsError
from dmq_cli.store import ArtifactStore, file_sha256, integrity, read_json

KEY = "0123456789abcdef"


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return ArtifactStore(tmp_path / "artifacts")


def make(store: ArtifactStore, key: str = KEY) -> Path:
    with store.claim("sample", key) as claim:
        (claim.work / "a.bin").write_bytes(b"0123456789")
        (claim.work / "deep").mkdir(exist_ok=True)
        (claim.work / "deep" / "manifest.json").write_text("{}")
        return claim.commit({"stage": "sample", "seed": 3})


def test_same_key_twice_is_one_computation(store: ArtifactStore) -> None:
    computed = 0
    for _ in range(2):
        with store.claim("sample", KEY) as claim:
            if claim.done is None:
                computed += 1
                assert claim.commit({}) == claim.done
            assert not claim.work.exists()
    assert computed == 1
    assert claim.done == store.find("sample", KEY)


def test_manifest_lists_every_file(store: ArtifactStore) -> None:
    folder = make(store)
    manifest = read_json(folder / "manifest.json")
    assert manifest["seed"] == 3
    assert [entry["path"] for entry in manifest["files"]] == ["a.bin", "deep/manifest.json"]
    assert manifest["files"][0] == {"path": "a.bin", "size": 10, "sha256": file_sha256(folder / "a.bin")}
    assert folder == store.root / "sample" / KEY == store.find("sample", KEY) == store.verify("sample", KEY)


def test_absent_artifact(store: ArtifactStore) -> None:
    assert store.find("sample", KEY) is None
    assert store.keys("sample") == []
    store.remove("sample", KEY)
    with pytest.raises(ArtifactError, match="no such artifact"):
        store.verify("sample", KEY)
    assert not store.root.exists()


def test_keys_are_the_committed_ones(store: ArtifactStore) -> None:
    make(store, "bb")
    make(store, "aa")
    with store.claim("sample", "cc"):
        pass
    assert store.keys("sample") == ["aa", "bb"]


def test_scratch_is_swept_and_work_is_kept(store: ArtifactStore) -> None:
    with pytest.raises(RuntimeError), store.claim("sample", KEY) as claim:
        for name in (".x", "tmp-part", "y.tmp", "kept", "deep/.z", "deep/kept", "tmp-folder/x", ".cache/y"):
            path = claim.work / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
        raise RuntimeError
    assert store.find("sample", KEY) is None
    with store.claim("sample", KEY) as claim:
        assert (claim.work / "tmp-part").exists()
        folder = claim.commit({})
    paths = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    assert paths == {"kept", "deep", "deep/kept", "manifest.json"}


def test_remove_forgets_artifact_and_leftovers(store: ArtifactStore) -> None:
    make(store)
    store.remove("sample", KEY)
    assert store.find("sample", KEY) is None
    with store.claim("sample", KEY) as claim:
        (claim.work / "part").write_text("x")
        store.remove("sample", KEY)
        assert (claim.work / "part").exists(), "somebody works on it"
    store.remove("sample", KEY)
    assert [path.name for path in (store.root / "sample").iterdir()] == [f".lock-{KEY}"]
    assert make(store) == store.find("sample", KEY)


def test_many_are_removed_together(store: ArtifactStore) -> None:
    for key in ("aa", "bb", "cc"):
        make(store, key)
    with store.claim("sample", "dd") as claim:
        (claim.work / "part").write_text("x")
    store.discard("sample", ["aa", "cc", "dd", "ee"])
    assert store.keys("sample") == ["bb"] and len(list((store.root / "sample").glob(".trash-*"))) == 3
    store.sweep("sample", ["aa", "cc"])
    assert [path.name[:9] for path in (store.root / "sample").glob(".trash-*")] == [".trash-dd"]


def test_the_newest_come_first(store: ArtifactStore) -> None:
    for number, key in enumerate(("bb", "cc", "aa")):
        os.utime(make(store, key), (number, number))
    assert store.newest("sample", 2) == ["aa", "cc"] and store.newest("sample", 9) == ["aa", "cc", "bb"]
    assert store.newest("other", 2) == []


def test_committing_twice_or_nan_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(NumericsError), store.claim("sample", KEY) as claim:
        claim.commit({"loss": float("nan")})
    assert store.find("sample", KEY) is None
    make(store)
    with store.claim("sample", KEY) as claim, pytest.raises(ArtifactError, match="there already"):
        claim.commit({})


def damage(folder: Path, how: str) -> None:
    target = folder / ("manifest.json" if how.startswith("manifest") else "a.bin")
    if how.endswith("removed"):
        target.unlink()
    elif how.endswith("a folder"):
        target.unlink()
        target.mkdir()
    else:
        old = target.stat()
        target.write_text({"altered": "012345678X", "truncated": "0123", "manifest malformed": "{"}.get(how, how[9:]))
        os.utime(target, ns=(old.st_atime_ns, old.st_mtime_ns))


DAMAGES = [
    ("altered", "a.bin was altered"),
    ("truncated", "a.bin has 4 bytes instead of 10"),
    ("removed", "a.bin is missing"),
    ("a folder", "a.bin is no longer a file"),
    ("manifest removed", "manifest.json is missing or not readable"),
    ("manifest malformed", "manifest.json is missing or not readable"),
    ("manifest {}", "manifest.json lists no files"),
    ('manifest {"files": [1]}', "manifest.json lists no files"),
    ('manifest {"files": [{"path": 1, "size": 1, "sha256": ""}]}', "wrong path, size or sha256"),
    ('manifest {"files": [{"path": "../../x", "size": 1, "sha256": ""}]}', "wrong path, size or sha256"),
]


@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize("way", ["find", "verify", "claim"])
@pytest.mark.parametrize(("how", "found"), DAMAGES)
def test_damage_is_noticed(store: ArtifactStore, how: str, found: str, way: str, seen_before: bool) -> None:
    folder = make(store)
    if seen_before:
        store.find("sample", KEY)
    damage(folder, how)
    with pytest.raises(ArtifactCorruptError, match=found) as caught:
        store.claim("sample", KEY).__enter__() if way == "claim" else getattr(store, way)("sample", KEY)
    assert f"delete {folder} or rerun with runtime.force=[sample]." in str(caught.value)
    store.remove("sample", KEY)
    assert make(store) == store.find("sample", KEY)


def test_large_artifacts_are_hashed_by_verify_only(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(integrity, "HASHED_BELOW", 5)
    folder = make(store)
    damage(folder, "altered")
    assert store.find("sample", KEY) == folder
    with pytest.raises(ArtifactCorruptError, match="altered"):
        store.verify("sample", KEY)
    damage(folder, "truncated")
    with pytest.raises(ArtifactCorruptError, match="4 bytes"):
        store.find("sample", KEY)


def test_an_artifact_is_hashed_once(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []

    def counted(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    folder = make(store)
    monkeypatch.setattr(integrity, "file_sha256", counted)
    for other in (store, ArtifactStore(store.root), store):
        assert other.find("sample", KEY) == other.verify("sample", KEY) == folder
    assert hashed == [], "the commit hashed them"
    monkeypatch.setattr(integrity, "_checked", {})  # another process
    for other in (store, ArtifactStore(store.root), store):
        assert other.find("sample", KEY) == other.verify("sample", KEY) == folder
    assert len(hashed) == 2, "two files, once each"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_bad_disk_is_one_sentence(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(number, "no", str(store.root / "big"))

    with store.claim("sample", KEY) as claim:
        (claim.work / "part").write_text("x")
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(DiskError) as caught, store.claim("sample", "other") as other:
                other.commit({})
    assert isinstance(caught.value.__cause__, OSError)
    assert str(caught.value).startswith(f"Computing sample other stopped at {store.root / 'big'}: ")
    for words in ("GB free there", "free some space"):
        assert (words in str(caught.value)) == (number in (errno.ENOSPC, errno.EDQUOT))
    with store.claim("sample", "other") as other:
        assert other.done is None, "the lock is free and the work folder stays usable"
        other.commit({})


def test_other_os_errors_pass(store: ArtifactStore) -> None:
    with pytest.raises(FileNotFoundError), store.claim("sample", KEY) as claim:
        (claim.work / "missing").read_text()


def test_what_is_being_removed_with_its_lock_is_busy(store: ArtifactStore) -> None:
    """Another process has found all that it needed and removes folder and lock while this one claims it."""
    make_folder = Path.mkdir

    def removed(path: Path, *rest: Any, **options: Any) -> None:
        make_folder(path, *rest, **options)
        if path.name.startswith(".work-"):
            path.rmdir()

    with patch.object(Path, "mkdir", removed), pytest.raises(BlockingIOError, match="being removed"):  # noqa: SIM117
        with store.claim("stage", KEY, wait=False):
            raise AssertionError("there is nothing to write into")
    with store.claim("stage", KEY, wait=False) as claim:
        assert claim.work.is_dir()
