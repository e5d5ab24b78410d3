"""The same job on the CPU and on a device, each a command of its own with an outputs folder of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
JOB = ("model=ddim_digits", "method=tac", "bits=w4a8", "budget=smoke", "trace=null")
SEEDS = 256
FULL = (f"seeds=0-{SEEDS - 1}", f"protocol.num_images={SEEDS}", "runtime.batch_size=128")
SMALL = (
    "seeds=0-39", "protocol.num_images=40", "sampler.num_inference_steps=3", "calib.seeds=1000000-1000003",
    "correct.seeds=2000000-2000003", "budget.weight_iterations=2", "budget.act_iterations=2", "budget.scale_iterations=2",
)  # fmt: skip
ONLY_FD = tuple(f"protocol.metrics.{name}=null" for name in ("is", "kid", "prc"))


def evaluated(outputs: Path, device: str, small: bool, *more: str) -> dict[str, Any]:
    """What `dmq evaluate` of the job prints, with the folder of its run under "run"."""
    size = SMALL if small else FULL
    words = ("evaluate", *JOB, *size, *ONLY_FD, f"runtime.device={device}", f"runtime.outputs={outputs}", *more)
    printed = subprocess.run(
        [sys.executable, "-m", "dmq_cli", "-q", "--json", *words], cwd=ROOT, capture_output=True, text=True
    )
    if printed.returncode:
        raise SystemExit(f"dmq {' '.join(words)} ended with {printed.returncode}: {printed.stderr.strip()}")
    result: dict[str, Any] = json.loads(printed.stdout)
    return result


def sampled_again(outputs: Path, other: Path, device: str, small: bool, *more: str) -> dict[str, Any]:
    """The same, from a copy of what is in `outputs`, but for images, which the device samples from the learned network there."""
    shutil.copytree(outputs, other, symlinks=True)
    return evaluated(other, device, small, "runtime.force=[sample,sample_fp,evaluate,evaluate_fp]", *more)
