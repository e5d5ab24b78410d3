"""One job on several processes of real launchers: torchrun, and Slurm where `sinfo` answers (shared/tools or your cluster)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dmq_cli.store import read_json
from tests.chain import QUICK, Result, artifact, artifacts, dmq, words

SEEDS = "0-1999"  # of four shards
COMMON = ("method=minmax", "bits=w4a8", *QUICK, f"seeds={SEEDS}")
DMQ = (sys.executable, "-m", "dmq_cli")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "3", "--standalone", "-m", "dmq_cli")


def slurm_answers() -> bool:
    try:
        return subprocess.run(["sinfo"], capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


slurm = [pytest.mark.slurm, pytest.mark.skipif(not slurm_answers(), reason="sinfo does not answer: no Slurm here")]


@pytest.fixture(scope="module")
def alone(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of a single process that nobody disturbed."""
    outputs = tmp_path_factory.mktemp("alone")
    assert dmq(*words("sample", small, outputs, *COMMON)).code == 0
    return outputs


def started(command: list[str], timeout: float = 300) -> Result:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, text=True, capture_output=True, timeout=timeout, env=environment)
    return Result(ended.returncode, ended.stdout, ended.stderr)


def check_same(outputs: Path, alone: Path) -> None:
    for stage in ("sample_fp", "sample"):
        folder, other = artifact(outputs, stage), artifact(alone, stage)
        assert folder.name == other.name and (folder / "images.npz").read_bytes() == (other / "images.npz").read_bytes()
    assert artifacts(outputs)["shard"] == artifacts(outputs)["shard_fp"] == 0


@pytest.mark.slow
def test_workers_of_one_command(small: Path, alone: Path, tmp_path: Path) -> None:
    ended = dmq(*words("sample", small, tmp_path, *COMMON, "runtime.workers=3", "-v"))
    assert ended.code == 0, ended.err
    check_same(tmp_path, alone)
    assert read_json(artifact(tmp_path, "sample") / "manifest.json")["workers"] == 3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, pytest.param(("srun", "-n", "4", *DMQ), marks=slurm)])
def test_the_same_command_started_several_times(
    launcher: tuple[str, ...], small: Path, alone: Path, tmp_path: Path
) -> None:
    ended = started([*launcher, *words("sample", small, tmp_path, *COMMON)])
    assert ended.code == 0, ended.err
    assert ended.out.count("sample-0-1999: ") == 1, "only the first prints the result"
    assert ended.err.count("loading PyTorch") == 1, "the others are quiet"
    check_same(tmp_path, alone)
    assert len(list(tmp_path.glob("runs/sample/*"))) == 1


class Job:
    """A batch job of two processes of the same command, which Slurm may put back."""

    def __init__(self, folder: Path, command: list[str]) -> None:
        script = folder / "job.sh"
        script.write_text(f"#!/bin/bash\nsrun -n 2 {' '.join([*DMQ, *command])}\n", encoding="utf-8")
        submitted = started(["sbatch", "--parsable", "--requeue", "-n", "2", "-o", str(folder / "log"), str(script)])
        self.number = submitted.out.strip()

    def requeue(self) -> None:
        """Have it stopped and started again, without the two minutes that Slurm waits by itself."""
        assert started(["scontrol", "requeue", self.number]).code == 0
        wait_for(lambda: "PENDING" in self._shown())
        started(["scontrol", "update", f"JobId={self.number}", "StartTime=now"])

    def cancel(self) -> None:
        assert started(["scancel", self.number]).code == 0
        wait_for(lambda: "JobState=CANCELLED" in self._shown())

    def wait(self) -> None:
        wait_for(lambda: "JobState=COMPLETED" in self._shown())

    def _shown(self) -> str:
        return started(["scontrol", "show", "job", self.number]).out


LEARNED = ("method=brecq", "bits=w4a8", *QUICK, "budget.weight_iterations=20", f"seeds={SEEDS}")
CHUNKS, SHARDS = "shard_fp/.work-*/tmp-*.npy", "shard_fp/*/images.npz"
LEARNED_UNITS = "reconstruct/.work-*/tmp-weights-*.safetensors"


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.skipif(not slurm_answers(), reason="sinfo does not answer: no Slurm here")
def test_a_job_that_is_requeued_and_cancelled_goes_on(small: Path, tmp_path: Path) -> None:
    """While it samples and while it reconstructs, both; it ends in the bytes of a process that nobody disturbed."""
    alone, outputs = tmp_path / "alone", tmp_path / "out"
    assert dmq(*words("sample", small, alone, *LEARNED)).code == 0
    job = Job(tmp_path, command := words("sample", small, outputs, *LEARNED))
    for starts, (pattern, count) in enumerate(((CHUNKS, 3), (SHARDS, 1), (LEARNED_UNITS, 2), (LEARNED_UNITS, 5)), 1):
        wait_for(lambda pattern=pattern, count=count: len(list((outputs / "artifacts").glob(pattern))) >= count)
        wait_for(lambda starts=starts: len(list(outputs.glob("runs/sample/*"))) == starts)
        if pattern == CHUNKS or count == 5:
            job.requeue()
        else:
            job.cancel()
            job = Job(tmp_path, command)
    job.wait()
    check_same(outputs, alone)
    file, other = (artifact(folder, "reconstruct") / "quantizers.safetensors" for folder in (outputs, alone))
    assert file.read_bytes() == other.read_bytes()
    assert len(list(outputs.glob("runs/sample/*"))) == 5, "it was started five times"


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.skipif(not slurm_answers(), reason="sinfo does not answer: no Slurm here")
def test_four_jobs_of_a_sweep(small: Path, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    launcher = ("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=cpu")
    command = words("calibrate", small, tmp_path, *launcher, "method=minmax,tfmq", "bits=w4a8,w8a8")
    ended = started([*DMQ, *command])
    assert ended.code == 0 and "4 done, 0 skipped, 0 failed" in ended.out + ended.err, ended
    assert artifacts(tmp_path)["calibrate"] == 4 and artifacts(tmp_path)["calibset"] == 2


@pytest.mark.slow
@pytest.mark.slurm
@pytest.mark.skipif(not slurm_answers(), reason="sinfo does not answer: no Slurm here")
def test_a_partition_that_slurm_refuses_is_one_sentence(small: Path, tmp_path: Path) -> None:
    launcher = ("-m", "hydra/launcher=submitit_slurm", "hydra.launcher.partition=nowhere")
    refused = dmq(*words("calibrate", small, tmp_path, *launcher, "bits=w4a8,w8a8"))
    assert refused.code == 1 and "nowhere" in refused.sentence


def wait_for(reached: Callable[..., bool], seconds: float = 200) -> None:
    until = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < until
        time.sleep(0.1)
