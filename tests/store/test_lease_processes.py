"""Leases between real processes: contending, killed, stopped and back, and with hosts of other names."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import pytest

from dmq_cli.store import ArtifactStore, read_json
from tests.store.child import KEY

TOP = Path(__file__).parents[2]
LONG = "60"


@contextmanager
def child(root: Path, what: str, silence: str, *before: str) -> Iterator[subprocess.Popen[str]]:
    """A process of tests.store.child, gone at the end. before: a command that starts it."""
    command = [*before, sys.executable, "-m", "tests.store.child", str(root), what]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, cwd=TOP, env={**os.environ, "LEASE": silence}, text=True, **streams)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def line(stream: IO[str] | None) -> str:
    assert stream is not None
    return stream.readline()


def owner_file(root: Path) -> Path:
    return root / "sample" / f".lease-{KEY}"


def test_of_three_processes_one_computes(tmp_path: Path) -> None:
    with ExitStack() as stack:
        three = [stack.enter_context(child(tmp_path, "compute", LONG)) for _ in range(3)]
        outputs = [process.communicate(timeout=60) for process in three]
    assert len((tmp_path / "computed").read_text().split()) == 1
    assert {output for output, _ in outputs} == {f"{tmp_path / 'sample' / KEY}\n"}
    assert ArtifactStore(tmp_path).verify("sample", KEY)


def test_a_killed_owner_is_followed_after_the_silence(tmp_path: Path) -> None:
    with child(tmp_path, "hang", "1") as owner:
        assert line(owner.stdout) == "claimed\n"
        os.utime(owner_file(tmp_path) / "1", (2e9, 2e9))  # a clock that is years ahead
        owner.kill()
        owner.wait()
    with child(tmp_path, "compute", "1") as other:
        output, log = other.communicate(timeout=60)
    assert output == f"{tmp_path / 'sample' / KEY}\n"
    waiting, took = log.splitlines()
    assert f"process {owner.pid} on {os.uname().nodename}, since 20" in waiting
    assert waiting.endswith("; after 1 s of silence this one takes over")
    assert f"process {owner.pid} on" in took and "was silent: this process goes on with sample 01234567" in took
    folder = ArtifactStore(tmp_path).verify("sample", KEY)
    assert (folder / "part-0").read_text() == "rows", "what the killed one had made"


@pytest.mark.parametrize("back", ["before the commit", "after it"])
def test_a_stopped_owner_that_comes_back_commits_nothing(tmp_path: Path, back: str) -> None:
    with child(tmp_path, "late", "1") as owner:
        assert line(owner.stdout) == "claimed\n"
        os.kill(owner.pid, signal.SIGSTOP)
        with child(tmp_path, "late" if back == "before the commit" else "compute", "1") as other:
            if back == "before the commit":
                assert line(other.stdout) == "claimed\n"
            else:
                other.communicate(timeout=60)
            os.kill(owner.pid, signal.SIGCONT)
            output, _ = owner.communicate("go on\n", timeout=60)
            assert output.startswith("refused: ") and output.count("\n") == 1 and f"process {other.pid} on" in output
            if back == "before the commit":
                assert other.communicate("go on\n", timeout=60)[0] == "committed\n"
    store = ArtifactStore(tmp_path)
    folder = store.verify("sample", KEY)
    assert read_json(folder / "manifest.json")["by"] == ("late" if back == "before the commit" else other.pid)
    assert (folder / "whole").read_text() == ("half, and half" if back == "before the commit" else "half, ")
    assert store.keys("sample") == [KEY] and not store.busy("sample", KEY)


def test_a_stopped_owner_whom_nobody_followed_goes_on(tmp_path: Path) -> None:
    with child(tmp_path, "late", "0.4") as owner:
        assert line(owner.stdout) == "claimed\n"
        os.kill(owner.pid, signal.SIGSTOP)
        with pytest.raises(subprocess.TimeoutExpired):
            owner.wait(timeout=1)
        os.kill(owner.pid, signal.SIGCONT)
        assert owner.communicate("go on\n", timeout=60)[0] == "committed\n"
    assert ArtifactStore(tmp_path).verify("sample", KEY)


def namespaces(name: str) -> list[str]:
    """The command that starts another as process 1 of a machine of its own: name, processes, network."""
    inside = f'hostname {name} && exec "$@"'
    return ["unshare", "-rupn", "--fork", "--kill-child", "sh", "-c", inside, "sh"]


def may_unshare() -> bool:
    """Whether namespaces are possible here without being root."""
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*namespaces("node-a"), "true"], capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_unshare(), reason="namespaces are not allowed here")
def test_machines_of_other_names_and_equal_process_numbers(tmp_path: Path) -> None:
    with child(tmp_path, "late", LONG, *namespaces("node-a")) as owner:
        assert line(owner.stdout) == "claimed\n"
        with child(tmp_path, "compute", LONG, *namespaces("node-b")) as other:
            assert "sample 01234567: process 1 on node-a, since 20" in line(other.stderr)
            assert owner.communicate("go on\n", timeout=60)[0] == "committed\n"
            assert other.communicate(timeout=60)[0] == f"{tmp_path / 'sample' / KEY}\n"
    assert not (tmp_path / "computed").exists(), "it waited"


@pytest.mark.skipif(not may_unshare(), reason="namespaces are not allowed here")
def test_a_machine_that_goes_down_is_followed_by_another(tmp_path: Path) -> None:
    with child(tmp_path, "hang", "1", *namespaces("node-a")) as owner:
        assert line(owner.stdout) == "claimed\n"
        owner.kill()
        owner.wait()
        with child(tmp_path, "compute", "1", *namespaces("node-b")) as other:
            output, log = other.communicate(timeout=60)
    assert output == f"{tmp_path / 'sample' / KEY}\n" and "process 1 on node-a, since" in log
    assert (ArtifactStore(tmp_path).verify("sample", KEY) / "part-0").read_text() == "rows"
