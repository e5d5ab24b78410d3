"""make gpu-check, rehearsed on the CPU: all of its pieces, with small networks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.compare import MOST_CODES, Comparison, compare_codes, compare_images

ROOT = Path(__file__).resolve().parent.parent


def check(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run it as the Makefile does."""
    command = [sys.executable, "-m", "benchmarks.gpu_check"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.mark.slow
def test_all_of_it_runs_on_the_cpu_and_finds_the_cpu_equal_to_itself() -> None:
    done = check(DEVICE="cpu")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    compared = [line for line in lines if line.startswith("ok")]
    assert len(compared) == 7 and sum("PSNR 99.0 dB" in line for line in compared) >= 3
    assert any("codes of weights: 0 of" in line for line in compared)
    for what in (
        "simulated W4A8 / full precision",
        "AdaRound iteration",
        "images/s",
        "peak memory",
        "channels-last",
        "compiled",
    ):
        assert any(what in line for line in lines), what
    assert lines[-1].startswith("0 comparisons failed")


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_without_cuda_it_says_so() -> None:
    done = check(DEVICE="")
    assert done.returncode == 1 and not done.stdout
    assert (
        done.stderr
        == "make gpu-check needs CUDA, and torch finds none here; rehearse it with: make gpu-check DEVICE=cpu\n"
    )


def test_what_is_further_apart_than_it_may_be_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = {"a": torch.arange(100)}
    turned = {
        "a": torch.cat([torch.arange(100)[: 100 - int(100 * MOST_CODES) - 1], torch.zeros(int(100 * MOST_CODES) + 1)])
    }
    answers = iter([codes, codes, codes, turned])
    monkeypatch.setattr("benchmarks.gpu.compare.codes_of", lambda run: next(answers))
    assert compare_codes(Path(), Path()).holds
    assert compare_codes(Path(), Path()) == Comparison("codes of weights: 6 of 100 differ (at most 5%)", False)


def test_psnr_is_that_of_eight_bits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "artifacts" / "sample-0-1").mkdir(parents=True)
    images = {"a": torch.zeros(2, 4, 4, 1), "b": torch.full((2, 4, 4, 1), 255.0 / 10)}
    monkeypatch.setattr("benchmarks.gpu.compare.load_images", lambda folder: images[folder.parents[1].name].numpy())
    far = compare_images("images", tmp_path / "a", tmp_path / "b", "sample", 20.5)
    assert far == Comparison("images: PSNR 20.0 dB over 2 (at least 20)", False)
    assert compare_images("images", tmp_path / "a", tmp_path / "a", "sample", 99.0).holds
