"""The tests in tests/second, each file in a process of its own: the device that they register would be there for all other tests, too."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "second"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["check_device.py", "check_evaluation.py"])
def test_what_runs_on_a_second_device(name: str) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "--override-ini",
        "python_files=check_*.py",
        str(FOLDER / name),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, cwd=FOLDER.parents[1])
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout[-4000:]


def test_every_file_is_named_here() -> None:
    assert {file.name for file in FOLDER.glob("check_*.py")} == {"check_device.py", "check_evaluation.py"}
