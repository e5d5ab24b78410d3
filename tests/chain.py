"""The command line in this process, on a random model folder that one forward pass of takes milliseconds."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from tests.tiny import SCHEDULE

IMAGES = 40
STEPS = 4
FEW = (
    "protocol=digits",
    f"sampler.num_inference_steps={STEPS}",
    "calib.seeds=1000000-1000007",
    f"seeds=0-{IMAGES - 1}",
    f"protocol.num_images={IMAGES}",
    "protocol.metrics.kid.subset_size=20",
    "protocol.metrics.kid.subsets=4",
    "protocol.metrics.is.splits=2",
    "budget=smoke",
    "trace=null",
    "runtime.threads=1",
)
ONLY_FD = tuple(f"protocol.metrics.{name}=null" for name in ("is", "kid", "prc"))
"""Leave the Fréchet distance of the metrics of a set."""
QUICK = tuple(f"budget.{kind}_iterations=2" for kind in ("weight", "act", "scale", "refine", "tune"))
QUICK += tuple(f"budget.training.{word}" for word in ("iterations=2", "batch_size=4", "candidates=1", "save_every=1"))
QUICK += ("train.loss=distill",)  # tiny networks have no data

TAC = ("method=tac", "bits=w3a8", "correct.seeds=2000000-2000007", *QUICK)
STAGES = ["calibrate", "calibset", "correct", "evaluate", "evaluate_fp", "reconstruct", "sample", "sample_fp"]
STAGES += ["targets", "transform"]


@dataclass(frozen=True)
class Result:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def sentence(self) -> str:
        """The one line of stderr that begins with "Error: ", without it."""
        errors = [line for line in self.err.splitlines() if line.startswith("Error: ")]
        assert len(errors) == 1 and "Traceback" not in self.err, self.err
        return errors[0].removeprefix("Error: ")


def tiny_folder(path: Path, **changes: Any) -> Path:
    """A diffusers folder: a UNet of 16x16 grey images with two levels, and its noise schedule."""
    from diffusers import UNet2DModel

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = UNet2DModel(**{**_ARCHITECTURE, **changes})
    model.save_pretrained(path / "unet")
    (path / "scheduler").mkdir()
    schedule = {"_class_name": "DDIMScheduler", "clip_sample": False, **SCHEDULE}
    (path / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule), encoding="utf-8")
    return path


def dmq(*words: str) -> Result:
    """Run the command in this process."""
    from dmq_cli.cli.app import main

    out, err, code = io.StringIO(), io.StringIO(), 0
    with _untouched(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(list(words))
        except SystemExit as end:
            code = int(end.code or 0)
    return Result(code, out.getvalue(), err.getvalue())


def words(verb: str, model: Path, outputs: Path, *more: str) -> list[str]:
    """A command on a tiny model folder with few samples; `more` comes last."""
    return [verb, f"model={model}", *FEW, f"runtime.outputs={outputs}", *more]


def spawn(arguments: list[str], **options: Any) -> subprocess.Popen[str]:
    """The command in a process of its own, output captured."""
    command = [sys.executable, "-m", "dmq_cli.cli.app", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, **pipes, **options)  # type: ignore[call-overload, no-any-return]


def artifacts(outputs: Path) -> dict[str, int]:
    """How many committed artifacts each stage has."""
    stages = sorted(path for path in (outputs / "artifacts").glob("*") if path.is_dir())
    return {stage.name: len([k for k in stage.iterdir() if k.name[0] != "."]) for stage in stages}


def artifact(outputs: Path, stage: str) -> Path:
    (folder,) = [p for p in (outputs / "artifacts" / stage).iterdir() if p.name[0] != "."]
    return folder


def images(outputs: Path, stage: str) -> Any:
    with np.load(artifact(outputs, stage) / "images.npz", allow_pickle=False) as archive:
        return archive["arr_0"].astype(int)


@contextlib.contextmanager
def counting() -> Iterator[list[str]]:
    """The names of the stages that are computed inside the block."""
    from dmq_cli.stages.graph import observing

    ran: list[str] = []

    @contextlib.contextmanager
    def note(stage: str, key: str) -> Iterator[None]:
        ran.append(stage)
        yield

    with observing(note):
        yield ran


@contextlib.contextmanager
def failing(error: BaseException) -> Iterator[None]:
    """The first stage that is computed inside the block ends in this error."""
    from dmq_cli.stages.graph import observing

    def fail(stage: str, key: str) -> contextlib.AbstractContextManager[None]:
        raise error

    with observing(fail):
        yield


@contextlib.contextmanager
def _untouched() -> Iterator[None]:
    """Put back what a command changes in its process."""
    logger, threads = logging.getLogger("dmq"), torch.get_num_threads()
    handlers, level, propagate = logger.handlers[:], logger.level, logger.propagate
    logger.handlers.clear()
    with patch.dict(os.environ), patch.object(sys, "argv", ["dmq"]):
        try:
            yield
        finally:
            logger.handlers[:], logger.propagate = handlers, propagate
            logger.setLevel(level)
            torch.set_num_threads(threads)


_ARCHITECTURE: dict[str, Any] = {
    "sample_size": 16,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
}
