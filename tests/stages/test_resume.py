"""What was finished survives a kill, and two processes share it."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.recon.units import ModuleUnit
from dmq_cli.results.images import write_chunk
from dmq_cli.stages import images
from dmq_cli.stages.graph import observing
from tests.chain import (
    QUICK,
    TAC,
    Result,
    artifact,
    artifacts,
    counting,
    dmq,
    spawn,
    words,
)
from tests.listening import Killed, listening


def test_a_killed_sampling_goes_on(model: Path, done: tuple[Path, Result, list[str]]) -> None:
    outputs, _, _ = done
    command = words("sample", model, outputs, *TAC, "seeds=200-239", "runtime.batch_size=10")
    written: list[str] = []

    def stops_at(limit: int) -> Callable[..., None]:
        def writing(file: Path, *rest: Any) -> None:
            if len(written) == limit:
                raise KeyboardInterrupt
            write_chunk(file, *rest)
            written.append(file.name)

        return writing

    with patch.object(images, "write_chunk", stops_at(6)):
        assert dmq(*command).code == 1
    assert len(written) == 6, "four chunks of the twin, two of the quantized network"
    written.clear()
    with patch.object(images, "write_chunk", stops_at(99)), counting() as ran:
        assert dmq(*command).code == 0
    assert ran == ["sample"] and written == ["tmp-220-230.npy", "tmp-230-240.npy"]


def wait_for(found: Callable[[], bool], process: subprocess.Popen[str], seconds: float = 300) -> None:
    until = time.monotonic() + seconds
    while not found():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def kill_at(command: list[str], outputs: Path, files: str, number: int) -> Path:
    """Start a reconstruction, SIGKILL it as soon as it has written so many of these files, and return its work folder."""
    process, stage = spawn(command), outputs / "artifacts" / "reconstruct"
    try:
        wait_for(lambda: len(list(stage.glob(f".work-*/{files}"))) >= number, process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    (work,) = stage.glob(".work-*")
    return work


@pytest.mark.slow
def test_killed_in_reconstruct_it_ends_in_the_same_bytes(small: Path, tmp_path: Path) -> None:
    """As test_refine's, which stops in the middle of a round, but by SIGKILL from outside, as tests/store does to commits."""
    more = (
        "calib.seeds=1000000-1000003",
        "method=qdiffusion",
        "bits=w3a8",
        "budget.weight_iterations=6",
        "budget.act_iterations=3",
        "budget.num_samples=8",
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    work = kill_at(words("reconstruct", small, killed, *more), killed, "tmp-weights-*.safetensors", 3)
    finished = {path: path.stat().st_mtime_ns for path in work.glob("tmp-weights-*.safetensors")}
    assert len(finished) < 10 and artifacts(killed)["reconstruct"] == 0, "killed before it was done"
    learned: list[str] = []
    capture = ModuleUnit.capture

    def counted(unit: ModuleUnit, *rest: Any, **options: Any) -> Any:
        learned.append(unit.name)
        return capture(unit, *rest, **options)

    with patch.object(ModuleUnit, "capture", counted), counting() as ran:
        assert dmq(*words("reconstruct", small, killed, *more)).code == 0
        resumed = len(learned)
        assert ran == ["reconstruct"]
        assert dmq(*words("reconstruct", small, whole, *more)).code == 0
    assert resumed == len(learned) - resumed - len(finished), "finished blocks are not learned again"
    continued, undisturbed = (artifact(outputs, "reconstruct") for outputs in (killed, whole))
    assert continued.name == undisturbed.name
    assert_same_files(continued, undisturbed)


@pytest.mark.slow
def test_killed_in_training_it_ends_in_the_same_bytes(small: Path, tmp_path: Path) -> None:
    """By SIGKILL between two checkpoints, while the next one may be half written."""
    more = (
        "calib.seeds=1000000-1000003",
        "method=lsq",
        "bits=w4a4",
        "train.loss=distill",
        "budget.training={iterations: 60, batch_size: 4, warmup: 2, ema: 0.9, save_every: 5, candidates: 2}",
    )
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    work = kill_at(words("reconstruct", small, killed, *more), killed, "tmp-training-*.safetensors", 2)
    checkpoints = sorted(work.glob("tmp-training-*.safetensors"))
    assert (
        len(checkpoints) >= 2
        and checkpoints[-1].name < "tmp-training-000000060"
        and artifacts(killed)["reconstruct"] == 0
    )
    with counting() as ran:
        assert dmq(*words("reconstruct", small, killed, *more)).code == 0
        assert ran == ["reconstruct"]
        assert dmq(*words("reconstruct", small, whole, *more)).code == 0
    resumed, undisturbed = (artifact(outputs, "reconstruct") for outputs in (killed, whole))
    assert resumed.name == undisturbed.name
    assert_same_files(resumed, undisturbed)


def assert_same_files(folder: Path, other: Path) -> None:
    """What was learned, and the losses on the way."""
    for file in ("quantizers.safetensors", "losses.json"):
        assert (folder / file).read_bytes() == (other / file).read_bytes()


def test_two_processes_that_want_the_same(small: Path, tmp_path: Path) -> None:
    command = words("correct", small, tmp_path, "method=minmax", "-v")
    stages = ["calibrate", "calibset", "correct", "reconstruct", "targets", "transform"]
    others: list[subprocess.Popen[str]] = []
    theirs: list[str] = []

    @contextlib.contextmanager
    def meeting(stage: str, key: str) -> Iterator[None]:
        """While this process computes its first stage, the other one comes as far as wanting the same."""
        if not others:
            others.append(spawn(command))
            for line in others[0].stderr or ():
                theirs.append(line)
                if "waiting for another process" in line:
                    break
        yield

    with observing(meeting):
        here = dmq(*command)
    theirs += others[0].stderr or ()
    messages = [here.err, "".join(theirs)]
    assert [here.code, others[0].wait(timeout=600)] == [0, 0], messages
    others[0].communicate()  # closes its pipes
    assert artifacts(tmp_path) == dict.fromkeys(stages, 1)
    for stage in stages:
        assert sum(text.count(f" {stage} {artifact(tmp_path, stage).name[:8]} done in") for text in messages) == 1
    assert len(list((tmp_path / "runs" / "correct").iterdir())) == 2


@pytest.mark.slow
def test_the_joblib_launcher(model: Path, tmp_path: Path) -> None:
    command = words(
        "evaluate",
        model,
        tmp_path,
        "-m",
        "hydra/launcher=joblib",
        "hydra.launcher.n_jobs=2",
        "bits=w4a8,w8a8",
    )
    process = spawn(command)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert artifacts(tmp_path)["calibset"] == 1 and artifacts(tmp_path)["evaluate"] == 2
    assert out.count("FD-digits") == 2


def test_a_reconstruction_killed_in_its_commit_keeps_its_loss_curves(small: Path, tmp_path: Path) -> None:
    little = ("calib.seeds=1000000-1000003", "budget.num_samples=8", *QUICK, "recon=par", "bits=w4a8")
    command = words("reconstruct", small, tmp_path, *little)
    removed: list[str] = []

    def kill(name: str, arguments: tuple[Any, ...]) -> None:
        place = str(arguments[0]) if arguments else ""
        if name == "os.remove" and "/reconstruct/.work-" in place and not place.endswith(".tmp"):
            removed.append(place)
            if len(removed) > 5:
                raise Killed

    with listening(kill), pytest.raises(Killed):
        dmq(*command)
    assert len(removed) > 5 and artifacts(tmp_path)["reconstruct"] == 0
    with counting() as ran:
        result = dmq(*command)
    assert result.code == 0 and ran == [], (ran, result.err)
    folder = artifact(tmp_path, "reconstruct")
    passes = json.loads((folder / "losses.json").read_text(encoding="utf-8"))["passes"]
    assert any("round 1" in name for name in passes) and all(units for units in passes.values())
    assert {path.name for path in folder.iterdir()} == {"losses.json", "manifest.json", "quantizers.safetensors"}
