"""The completion script in a real bash: verbs, groups, choices and keys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.chain import dmq

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_has_a_script(shell: str) -> None:
    result = dmq("completion", shell)
    assert result.code == 0 and "_DMQ_COMPLETE" in result.out


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["ev"], ["evaluate"]),
        (["evaluate", "met"], ["method="]),
        (["plan", "evaluate", "met"], ["method="]),
        (["evaluate", "bits=w4a8", "method", "=", "ptq"], ["ptq4dm", "ptqd"]),  # as bash splits words
        (["evaluate", "recon", "="], ["none", "adaround"]),
        (["evaluate", "sampler.num"], ["sampler.num_inference_steps="]),
        (["evaluate", "runtime.thr"], ["runtime.threads="]),
    ],
)
def test_bash_completes(words: list[str], wanted: list[str]) -> None:
    line = " ".join(f"'{word}'" for word in ["dmq", *words])
    script = (
        f'eval "$(dmq completion bash)"; COMP_WORDS=({line}); COMP_CWORD={len(words)}; _dmq_completion dmq;'
        ' printf "%s\\n" "${COMPREPLY[@]}"'
    )
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}
    )
    completions = done.stdout.split()
    assert set(wanted) <= set(completions), done.stderr
    assert len(completions) == len(wanted) or words[-1] == "=", completions
