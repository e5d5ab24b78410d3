"""A whole evaluation on the second device is that of the CPU, within the tolerances of tests/test_gpu.py."""

from __future__ import annotations

from pathlib import Path

from tests.chain import STAGES, TAC
from tests.second.device import NAME, second_device
from tests.test_gpu import Jobs, differing, model, run_all

__all__ = ["model"]  # a fixture


def test_an_evaluation_on_the_second_device(model: Path, tmp_path: Path) -> None:
    """The same comparison; without the trace and a transform, whose inference tensors this device cannot wrap."""
    jobs: Jobs = (("evaluate", TAC),)
    here = run_all(model, tmp_path / "cpu", "cpu", jobs)
    with second_device() as device:
        there = run_all(model, tmp_path / "second", NAME, jobs)
    wrong = {stage: names for stage in STAGES if stage != "transform" and (names := differing(here, there, stage))}
    assert not wrong and device.computed > 10_000
