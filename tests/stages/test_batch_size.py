"""How it is run does not change what comes out: every method at batch sizes that cut its calibration set in other places.

In float64, in which kernels that add up in another order for another batch size move no rounding to the other side.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.stages.graph import Graph
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.store import ArtifactStore
from dmq_cli.store.tensors import load_tensors
from tests.chain import FEW, QUICK, STEPS
from tests.stages.test_golden import in_float64
from tests.test_conf import METHODS, composed

SIZES = (7, 50, 500)
ROWS = 52  # of the calibration sets, so that the three sizes cut them differently; of them 8 are learned on
FAST = ("ptq4dm", "tac")  # a search; learning and a correction


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@cache
def prepared(method: str, small: Path) -> dict[str, Any]:
    """A tiny run of a method at four bits, with ROWS calibration samples."""
    words = [f"method={method}", "model=folder", "model.name=tiny", f"model.path={small}", *FEW, *QUICK, "bits=w4a4"]
    whole = composed(*words, "budget.num_samples=8")
    calib = whole["calib"]
    calib["seeds"] = f"1000000-{1000000 + (ROWS if 'num_steps' not in calib else ROWS // STEPS) - 1}"
    if "trajectory_steps" in calib:
        calib["trajectory_steps"] = STEPS
    if whole["correct"].get("seeds") is not None:
        whole["correct"]["seeds"] = "2000000-2000007"
    return prepare({**whole, "stage": "correct"})


def made(config: dict[str, Any], outputs: Path, size: int) -> dict[str, Tensor]:
    """Every tensor of the stages that make a quantized network."""
    config = {**config, "runtime": {**config["runtime"], "batch_size": size}}
    graph = Graph(NODES, ArtifactStore(outputs / str(size)), Progress(quiet=True))
    tensors: dict[str, Tensor] = {}
    with in_float64():
        for stage in graph.chain("correct", config):
            for file in sorted(graph.ensure(stage, config).glob("*.safetensors")):
                tensors |= {f"{stage}/{file.stem}/{name}": tensor for name, tensor in load_tensors(file).items()}
    return tensors


def differing(whole: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """The tensors that are not equal but for the order of summation."""
    assert list(whole) == list(other) and whole
    return [n for n, x in whole.items() if not torch.allclose(x.double(), other[n].double(), rtol=1e-6, atol=1e-9)]


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param(m, marks=[] if m in FAST else pytest.mark.slow) for m in METHODS])
def test_no_statistic_search_or_learning_depends_on_the_batch_size(method: str, small: Path, outputs: Path) -> None:
    whole, *others = (made(prepared(method, small), outputs, size) for size in SIZES)
    assert len(whole["calibset/timestep/data"]) == ROWS and len(whole) > 100
    assert [differing(whole, other) for other in others] == [[], []]


def test_ranges_that_are_searched_are_of_another_version(small: Path) -> None:
    """What was made when the values that a search sees depended on the batch size is not taken from a cache."""
    versions = {m: NODES["calibrate"].version_for(prepared(m, small)) for m in ("minmax", "ptq4dm", "tac", "tfmq")}
    assert versions == {"minmax": 1, "ptq4dm": 2, "tac": 1, "tfmq": 1}
    assert NODES["reconstruct"].version_for(prepared("ptq4dm", small)) == NODES["reconstruct"].version


def test_learning_that_counts_errors_of_layers_is_of_another_version(small: Path) -> None:
    """What was made when those of linear layers were summed over places is not taken from a cache; all else is."""
    node = NODES["reconstruct"]
    raised = {
        m: node.version_for(prepared(m, small)) - node.version for m in ("minmax", "tac", "qdrop", "eda", "quest")
    }
    assert raised == {"minmax": 0, "tac": 0, "qdrop": 0, "eda": 1, "quest": 0}
    fine = prepared("quest", small)
    fine["recon"]["base"]["passes"]["weights"]["fine"] = 0.5
    assert node.version_for(fine) == node.version + 1
    assert node.version_for({"recon": {"_target_": "own.Method", "passes": ["x"]}}) == node.version
