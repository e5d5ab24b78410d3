from __future__ import annotations

import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

import dmq_cli
from dmq_cli.store import Stopwatch, canonical, environment, manifest


def git(folder: Path, *arguments: str) -> None:
    command = ["git", "-C", str(folder), "-c", "user.name=x", "-c", "user.email=x@x", *arguments]
    subprocess.run(command, check=True, capture_output=True)


def test_environment_is_plain_and_names_versions() -> None:
    record = environment()
    assert json.loads(canonical(record)) == record
    assert record["dmq"] == dmq_cli.__version__
    assert record["python"] == platform.python_version()
    assert set(record["versions"]) == {
        "torch",
        "diffusers",
        "torch-fidelity",
        "hydra-core",
        "safetensors",
        "numpy",
    }
    assert all(record["versions"].values())
    assert not platform.node() or platform.node() not in json.dumps(record)


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    """As in a new process."""
    manifest._git_state.cache_clear()


def test_environment_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert environment()["git"] is None


def anew() -> Any:
    """The state of the checkout, as a new process sees it."""
    manifest._git_state.cache_clear()
    return environment()["git"]


def test_git_state_of_a_checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path)
    assert anew() is None, "not a checkout"
    git(tmp_path, "init", "-q")
    assert anew() is None, "no commit yet"
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    state = anew()
    assert len(state["commit"]) == 40
    assert state["dirty"] is False
    (tmp_path / "new.py").write_text("")
    assert environment()["git"] == state, "what this process runs was imported before"
    assert anew() == {**state, "dirty": True}


def test_an_installed_package_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "x")
    monkeypatch.setattr(manifest, "_CHECKOUT", tmp_path / ".venv")
    (tmp_path / ".venv").mkdir()
    assert environment()["git"] is None


def test_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "_PACKAGES", ("no-such-distribution",))
    assert environment()["versions"] == {"no-such-distribution": None}


def test_stopwatch() -> None:
    with Stopwatch() as watch:
        time.sleep(0.02)
        inside = watch.seconds
        assert watch.peak_memory_mb > 1
    assert 0.02 <= inside <= watch.seconds == watch.seconds < 10
    assert 1 < watch.peak_memory_mb < 1e6
