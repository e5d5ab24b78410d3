"""Every stage on CUDA makes what it makes on the CPU, within stated tolerances; tests/second rehearses it on a device that computes on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.stages.nodes import NODES
from tests.chain import QUICK, TAC, dmq, tiny_folder, words
from tests.stages.test_golden import alike, tensors
from tests.tiny import SMALL

NEAR = {
    "training_set": 1e-6,  # the data themselves
    "calibset": 1e-3,
    "transform": 1e-3,
    "calibrate": 1e-2,  # a search may take the candidate beside
    "targets": 1e-3,
    "reconstruct": 2e-2,
    "export": 2e-2,
    "correct": 0.5,  # means of eight samples on trajectories along which codes flip
    "trace": 0.1,
    "sample_fp": 2e-2,
    "sample": 0.2,
    "evaluate_fp": 2e-2,
    "evaluate": 0.2,
}
"""Of a value plus a tenth of the greatest one of its tensor; 95 % of the values of each tensor are as near as that."""
RUN = (*TAC, "transform=tcr", "trace={seeds: 3000000-3000003}")
TRAIN = ("method=lsq", "bits=w4a4", *QUICK, "train.loss=noise")
Jobs = tuple[tuple[str, tuple[str, ...]], ...]
JOBS: Jobs = (("evaluate", RUN), ("export", RUN), ("reconstruct", TRAIN))


def test_every_stage_is_compared() -> None:
    assert set(NEAR) == set(NODES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_folder(tmp_path_factory.mktemp("model") / "tiny", **{**SMALL, "block_out_channels": (16,)})


@pytest.fixture(scope="module")
def here(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What all stages make on the CPU."""
    return run_all(model, tmp_path_factory.mktemp("cpu"), "cpu")


@pytest.fixture(scope="module")
def there(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """And on CUDA."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA here")
    return run_all(model, tmp_path_factory.mktemp("cuda"), "cuda")


def run_all(model: Path, outputs: Path, device: str, jobs: Jobs = JOBS) -> Path:
    for verb, job in jobs:
        result = dmq(*words(verb, model, outputs, *job, f"runtime.device={device}"))
        assert result.code == 0, result.err
    return outputs / "artifacts"


def made(artifacts: Path, stage: str) -> Iterator[tuple[str, Tensor]]:
    """All that a stage made, by key and name."""
    for artifact in sorted(path for path in (artifacts / stage).iterdir() if path.name[0] != "."):
        for folder in (artifact, *sorted(path for path in artifact.rglob("*") if path.is_dir())):
            for name, tensor in tensors(folder):
                yield f"{folder.relative_to(artifacts)} {name}", tensor


def differing(here: Path, there: Path, stage: str) -> list[str]:
    """The tensors of a stage that are further apart than they may be."""
    ours, theirs = dict(made(here, stage)), dict(made(there, stage))
    assert ours and ours.keys() == theirs.keys(), "device is in no key"
    return [name for name, tensor in ours.items() if not alike(theirs[name], tensor, NEAR[stage])]


@pytest.mark.gpu
@pytest.mark.parametrize("stage", sorted(NEAR))
def test_a_stage_on_cuda(stage: str, here: Path, there: Path) -> None:
    assert not differing(here, there, stage)
