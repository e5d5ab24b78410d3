"""Kills and races, in real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dmq_cli.store import ArtifactStore
from tests.store.child import KEY

TOP = Path(__file__).parents[2]
SCRATCH_FREE = {"a", "deep", "deep/b", "manifest.json"}


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.store.child", str(root), *arguments]
    return subprocess.Popen(command, cwd=TOP, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def test_store_imports_no_heavy_library() -> None:
    code = "import sys, dmq_cli.store; print({'torch', 'numpy', 'safetensors', 'omegaconf'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=TOP, text=True, capture_output=True, check=True)
    assert done.stdout == "set()\n"


def test_kill_inside_a_claim_leaves_the_work_and_frees_the_lock(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with start(tmp_path, "hang") as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "claimed\n"
        assert store.find("sample", KEY) is None
        child.kill()
    with store.claim("sample", KEY) as claim:
        assert claim.done is None
        assert (claim.work / "part-0").read_text() == "rows"
        claim.commit({})
    assert store.verify("sample", KEY) == claim.done


@pytest.mark.parametrize("when", ["before", "after"])
def test_kill_anywhere_in_commit_leaves_all_or_nothing(tmp_path: Path, when: str) -> None:
    outcomes = []
    for count in range(1, 30):
        root = tmp_path / str(count)
        with start(root, "die", str(count), when) as child:
            code = child.wait()
        store = ArtifactStore(root)
        outcomes.append(store.find("sample", KEY) is not None)
        with store.claim("sample", KEY) as claim:
            if claim.done is None:
                assert (claim.work / "deep" / "b").read_text() == "more"
                claim.commit({"seed": 1})
        folder = store.verify("sample", KEY)
        assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == SCRATCH_FREE
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert code == 0, "every call was reached"
    assert outcomes == sorted(outcomes), "nothing first, then the whole"
    assert outcomes.count(False) >= 6
    assert outcomes.count(True) >= 2


def test_of_two_processes_one_computes(tmp_path: Path) -> None:
    children = [start(tmp_path, "compute") for _ in range(2)]
    outputs = [child.communicate(timeout=20) for child in children]
    assert len((tmp_path / "computed").read_text().split()) == 1
    assert {output for output, _ in outputs} == {f"{tmp_path / 'sample' / KEY}\n"}
    messages = "".join(log for _, log in outputs)
    assert messages.count("waiting for another process that computes sample 01234567") <= 1


def test_waiting_is_said_once(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path)
    with store.claim("sample", KEY) as claim:
        child = start(tmp_path, "compute")
        assert child.stderr is not None
        message = child.stderr.readline()
        who = f"waiting for another process that computes sample 01234567: process {os.getpid()} on {os.uname().nodename}, since 20"
        assert who in message and message.startswith("INFO:dmq:"), "the logger that the command line shows"
        claim.commit({})
    output, log = child.communicate(timeout=20)
    assert (output, log) == (f"{claim.done}\n", "")
    assert not (tmp_path / "computed").exists()
