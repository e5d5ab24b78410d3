"""A process of its own for test_memory.py: `python -m benchmarks.memory SAMPLES FOLDER` prints its peaks as JSON."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import torch

from benchmarks import cifar
from dmq_cli.calib import Uniform, collect, fit_activations, fit_weights
from dmq_cli.deploy.bench.process import peak_mib
from dmq_cli.models import ModelDenoiser
from dmq_cli.recon.capture import capture
from dmq_cli.stages.build import calibration

STEPS, BATCH = 4, 50  # of the sampler, all of them kept; what a run takes at once by default
UNIT = "up_blocks.3.resnets.0"  # the largest input of the network: 384 channels of 32x32


def main(num: int, folder: Path) -> None:
    """Collect `num` samples, fit all ranges on them, capture one unit; print the peak after each."""
    torch.set_num_threads(2)
    attached = cifar.attached(steps=STEPS, fit=False)
    peaks = {"start": peak_mib()}
    with_model = ModelDenoiser(cifar.adapter())
    strategy = Uniform(f"0-{num // STEPS - 1}", STEPS)
    collect(strategy, with_model, cifar.scheduler(STEPS), cifar.SHAPE, folder, batch_size=BATCH)
    peaks["collect"] = peak_mib()
    fit_weights(attached)
    fit_activations(attached, calibration(folder, BATCH))
    peaks["fit"] = peak_mib()
    data = partial(calibration, folder, BATCH)
    captured = capture(attached, UNIT, data, num, folder / "capture", activations=True)
    assert len(captured.timesteps) == num and len(captured.target.rows(torch.arange(num - 1, num))) == 1
    peaks["capture"] = peak_mib()
    print(json.dumps(peaks))


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
