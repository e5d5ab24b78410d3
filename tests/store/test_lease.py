"""The protocol of leases step by step, with a clock that the test moves, on a real disk."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from dmq_cli.errors import ArtifactError
from dmq_cli.store import ArtifactStore, create_run, is_alive, lease
from dmq_cli.store.lease import Lease, Owner, OwnerFiles, SilenceWatch, attempt, decode, is_held

KEY = "ab" * 16
SILENCE = 8.0


@dataclass
class Clock:
    """Seconds that pass when the test says so."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def owner(token: str) -> Owner:
    return Owner(token, os.getpid(), "host", "2026-01-01 00:00:00", SILENCE)


def taken(place: Path, token: str, watch: SilenceWatch | None = None) -> Lease | None:
    owners = OwnerFiles(place)
    return attempt(owners, owner(token), (watch or SilenceWatch(owners, time.monotonic)).is_free)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / ".lease-x"


def first(place: Path) -> Lease:
    held = taken(place, "aa")
    assert held is not None
    return held


def looks(place: Path, watch: SilenceWatch, clock: Clock, count: int, token: str = "bb") -> list[bool]:
    """Whether each of `count` attempts, one second apart, gets the lease; a success ends them."""
    outcomes = []
    for _ in range(count):
        outcomes.append(taken(place, token, watch) is not None)
        if outcomes[-1]:
            break
        clock.now += 1.0
    return outcomes


def test_one_has_it_until_it_is_given_back(place: Path) -> None:
    held = first(place)
    assert taken(place, "bb") is None and is_held(place)
    held.release()
    assert not is_held(place)
    second = taken(place, "bb")
    assert second is not None and [other.token for other in second.earlier] == ["aa"] and second.earlier[0].given_back
    second.check()
    second.settle()
    assert [path.name for path in place.iterdir()] == ["2"], "numbers only grow, the last file stays"


def test_silence_is_what_the_waiting_process_has_seen(place: Path) -> None:
    held, clock = first(place), Clock(1000.0)
    watch = SilenceWatch(OwnerFiles(place), clock)
    assert looks(place, watch, clock, 20) == [False] * 8 + [True]
    with pytest.raises(ArtifactError, match=r"silent for more than 8 s .* \(process \d+ on host, since .* took over\)"):
        held.check()


def test_every_beat_starts_the_silence_anew(place: Path) -> None:
    held, clock = first(place), Clock()
    watch = SilenceWatch(OwnerFiles(place), clock)
    for _ in range(5):
        assert looks(place, watch, clock, 7) == [False] * 7
        held.beat()
    held.check()


@pytest.mark.parametrize("shift", [-1e9, -1000.0, 1000.0, 1e9])
def test_times_of_files_do_not_matter_to_who_waits(place: Path, shift: float) -> None:
    held, clock = first(place), Clock()
    watch = SilenceWatch(OwnerFiles(place), clock)
    for _ in range(20):
        held.beat()
        os.utime(place / "1", (time.time() + shift, time.time() + shift))
        assert looks(place, watch, clock, 3) == [False] * 3
    assert looks(place, watch, clock, 20).index(True) == 5, "three seconds before, and five"


def test_a_pause_of_the_waiting_process_is_no_silence_of_the_owner(place: Path) -> None:
    first(place)
    clock = Clock()
    watch = SilenceWatch(OwnerFiles(place), clock)
    assert looks(place, watch, clock, 3) == [False] * 3
    clock.now += 1e6
    assert looks(place, watch, clock, 20) == [False] * 5 + [True]


def test_of_many_that_saw_the_silence_one_takes_over(place: Path) -> None:
    first(place)
    clock = Clock()
    watches = [SilenceWatch(OwnerFiles(place), clock) for _ in range(5)]
    for _ in range(20):
        held = [taken(place, f"b{index}", watch) for index, watch in enumerate(watches)]
        if any(held):
            break
        clock.now += 1.0
    assert [holder is not None for holder in held] == [True, False, False, False, False]


def test_who_read_the_numbers_long_ago_gets_nothing(place: Path) -> None:
    """Between its look and its link others came and went; the number it looked at is gone."""
    owners, late = OwnerFiles(place), list[Lease | None]()

    def meanwhile(number: int) -> bool:
        first(place).release()
        second = attempt(owners, owner("bb"), lambda highest: True)
        assert second is not None
        second.settle()
        late.append(second)
        return True

    first(place).release()
    assert attempt(owners, owner("cc"), meanwhile) is None
    assert late[0] is not None and owners.numbers() == [3]
    late[0].check()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"[" * 5000, b'{"token": 1}', b'{"token": "../x", "pid": 1}'])
def test_a_file_that_says_nothing_is_an_owner_that_may_be_silent(place: Path, content: bytes) -> None:
    assert decode(content) is None
    place.mkdir()
    (place / "7").write_bytes(content)
    clock = Clock()
    watch = SilenceWatch(OwnerFiles(place), clock)
    assert is_held(place)
    outcomes = looks(place, watch, clock, 200)
    assert outcomes.index(True) == lease.SILENCE, "one second each"
    assert OwnerFiles(place).numbers() == [7, 8]


def test_the_link_counts_not_what_the_file_system_says(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS may make a link, lose the answer, try again and say that it exists."""
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)
        link(source, target)

    monkeypatch.setattr(os, "link", twice)
    first(place).check()
    assert taken(place, "bb") is None
    assert [path.name for path in place.iterdir()] == ["1"], "no private file is left"


def test_a_file_system_without_links_is_one_sentence(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with pytest.raises(ArtifactError, match=r"needs hard links.*use store\.lock=flock"):
        lease.wait(place, print)


def test_the_thread_renews_it(place: Path) -> None:
    with_thread = lease.wait(place, print, silence=0.8)
    beats: set[bytes] = set()
    while len(beats) < 4:
        beats.add((place / "1").read_bytes())
    with_thread.release()
    last = decode((place / "1").read_bytes())
    assert last is not None and last.given_back and last.beat >= 3


def test_waiting_says_who_has_it_and_for_how_long(place: Path) -> None:
    first(place)
    messages: list[str] = []

    def say(who: str) -> None:
        messages.append(who)
        shutil.rmtree(place)

    lease.wait(place, say).release()
    assert messages == [
        f": process {os.getpid()} on host, since 2026-01-01 00:00:00; after 8 s of silence this one takes over"
    ]


def test_one_look_at_a_killed_owner(place: Path) -> None:
    first(place)
    assert is_held(place)
    long_ago = time.time() - 6 * SILENCE
    os.utime(place / "1", (long_ago, long_ago))
    assert not is_held(place)
    held = lease.take(place)
    assert held is not None
    held.release()


def store_of(root: Path) -> ArtifactStore:
    return ArtifactStore(root, "lease", 600.0)


def make(store: ArtifactStore) -> Path:
    with store.claim("sample", KEY) as claim:
        (claim.work / "a").write_text("content")
        return claim.commit({})


def test_a_store_of_leases(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    with store.claim("sample", KEY) as claim:
        assert store.busy("sample", KEY) and not is_held(tmp_path / "sample" / ".lease-other")
        (claim.work / "a").write_text("content")
        store.remove("sample", KEY)
        assert (claim.work / "a").exists(), "somebody works on it"
    assert store.leftovers("sample") == {KEY: [claim.work]} and not store.busy("sample", KEY)
    folder = make(store)
    assert store.find("sample", KEY) == folder and store.leftovers("sample") == {}
    with store.claim("sample", KEY) as claim:
        assert claim.done == folder and not claim.work.exists()
    store.remove("sample", KEY)
    assert [path.name for path in (tmp_path / "sample").iterdir()] == [f".lease-{KEY}"]


def test_what_a_killed_attempt_left_is_gone_on_with(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    with store.claim("sample", KEY) as claim:
        (claim.work / "tmp-0").write_text("chunk")
        (claim.work / ".half.tmp").write_text("half")
    with store.claim("sample", KEY) as again:
        assert again.work != claim.work and not claim.work.exists()
        assert (again.work / "tmp-0").read_text() == "chunk"
        again.commit({})


def test_what_flock_left_is_gone_on_with_unless_it_is_under_way(tmp_path: Path) -> None:
    flock, leases = ArtifactStore(tmp_path, "flock"), store_of(tmp_path)
    with flock.claim("sample", KEY) as claim:
        (claim.work / "tmp-0").write_text("chunk")
        with leases.claim("sample", KEY) as other:
            assert list(other.work.iterdir()) == []
    with leases.claim("sample", KEY) as other:
        (other.work / "tmp-1").write_text("chunk")
        assert flock.busy("sample", KEY)
        flock.remove("sample", KEY)
        assert (other.work / "tmp-1").exists(), "not under another kind of lock either"


@pytest.mark.parametrize("kind", ["flock", "lease"])
def test_a_folder_that_was_made_anew_is_not_committed(tmp_path: Path, kind: str) -> None:
    store = ArtifactStore(tmp_path, kind)
    with pytest.raises(ArtifactError, match="took over its work folder"), store.claim("sample", KEY) as claim:
        (claim.work / "a").write_text("content")
        claim.work.rename(tmp_path / "taken")
        claim.work.mkdir()
        claim.commit({})
    assert store.find("sample", KEY) is None


def test_an_artifact_that_came_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    flock, leases = ArtifactStore(tmp_path, "flock"), store_of(tmp_path)
    with pytest.raises(ArtifactError, match="committed it meanwhile"), flock.claim("sample", KEY) as claim:
        folder = make(leases)
        claim.commit({"by": "flock"})
    assert leases.verify("sample", KEY) == folder


def test_without_its_owner_file_nothing_is_committed(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    with pytest.raises(ArtifactError, match="its file is gone"), store.claim("sample", KEY) as claim:
        shutil.rmtree(tmp_path / "sample" / f".lease-{KEY}")
        claim.commit({})
    with pytest.raises(ArtifactError, match="its file is gone"), store.claim("sample", KEY) as claim:
        shutil.rmtree(tmp_path / "sample")
        (claim.work / "a").write_text("an error of any kind has this cause")


def test_an_owner_whose_disk_takes_no_beats_is_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(tmp_path, "lease", 0.4)
    write = lease._Open.write

    def full(file: lease._Open, content: bytes) -> None:
        raised = decode(content)
        if raised is None or raised.beat:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(file, content)

    monkeypatch.setattr(lease._Open, "write", full)
    with pytest.raises(ArtifactError, match="took over"), store.claim("sample", KEY) as claim:
        (claim.work / "tmp-0").write_text("chunk")
        with store.claim("sample", KEY) as other:
            assert (other.work / "tmp-0").read_text() == "chunk"
            other.commit({})
        claim.commit({})
    assert store.verify("sample", KEY)


def test_files_that_a_silent_owner_may_have_open_are_left_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Lease, "keep_alive", lambda lease: None)
    store = ArtifactStore(tmp_path, "lease", 0.3)
    with pytest.raises(ArtifactError, match="took over"), store.claim("sample", KEY) as claim:
        for name in ("tmp-0", "whole", ".half.tmp", "deep/.half.tmp", "deep/whole"):
            (claim.work / name).parent.mkdir(exist_ok=True)
            (claim.work / name).write_text(name)
        with (claim.work / "whole").open("a") as late, store.claim("sample", KEY) as other:
            late.write(" and more")
            late.flush()
            names = {path.relative_to(other.work).as_posix() for path in other.work.rglob("*") if path.is_file()}
            assert names == {"tmp-0", "whole", "deep/whole"}
            assert (other.work / "whole").read_text() == "whole"
            other.commit({})
        claim.commit({})
    assert store.verify("sample", KEY)


def test_a_run_under_way_is_seen_from_elsewhere(tmp_path: Path) -> None:
    run = create_run(tmp_path, "sample", KEY, {}, "lease")
    assert is_alive(run.path) and (run.path / ".lease" / "1").is_file() and not (run.path / ".lock").exists()
    run.finish("done")
    assert not is_alive(run.path) and not (run.path / ".lease").exists()
    killed = create_run(tmp_path, "sample", KEY, {}, "lease")
    killed._release.detach()
    assert is_alive(killed.path)
