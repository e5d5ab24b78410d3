"""Full and read-only disks, mounted in a namespace of their own where this machine allows that."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


def may_mount() -> bool:
    """Whether an unprivileged mount is possible here."""
    if shutil.which("unshare") is None:
        return False
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not may_mount(), reason="mount namespaces are not allowed here")
def test_every_sentence_about_a_disk_has_its_path_and_nothing_is_half_written(tmp_path: Path) -> None:
    command = ["unshare", "-rm", sys.executable, "-m", "tests.store.disk_child", str(tmp_path)]
    done = subprocess.run(command, cwd=TOP, text=True, capture_output=True, check=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "Traceback" not in done.stderr and len(errors) == done.stdout.count('"code": 1') >= 15
    sentences = [line for line in errors if "The first reason" not in line]
    for line in sentences:
        assert str(tmp_path) in line and line.endswith("then run the same command again."), line
        assert ("free some space" in line) == ("No space left" in line), line
    assert "Read-only file system at" in sentences[-1] and "that disk can only be read" in sentences[-1]
    assert len(errors) - len(sentences) >= 3, "a status that cannot be written does not hide what went wrong"
    assert [line for line in done.stdout.splitlines() if '"left": ["' in line] == [
        'picture 200 {"code": 0, "left": ["samples.png"]}',
        'artifact 200 {"code": 0, "left": ["images.npz"]}',
    ]
