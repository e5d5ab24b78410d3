"""What every stage made when its version was last raised: other numbers under the same version are red, on any machine.

golden/config.json is a prepared configuration, kept as it was, so that changes of conf/ do not matter; golden/tensors.safetensors
holds a part of all that the stages made of it. The network computes in float64, in which no rounding falls to the other side
because another machine adds up in another order. After a change that is meant to change numbers: raise the version of the stage
in stages/nodes.py, then `python -m tests.stages.test_golden`.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor

from dmq_cli.models import Adapter, folder_sha256, model_adapter, numerics
from dmq_cli.stages.graph import Graph
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.store import ArtifactStore, write_json
from dmq_cli.store.tensors import load_tensors, save_tensors
from tests.chain import FEW, QUICK, tiny_folder
from tests.test_conf import composed

GOLDEN = Path(__file__).with_name("golden")
WORDS = ("model=folder", "model.name=tiny", "method=tcaq", "correct=tac", "correct.seeds=2000000-2000007", "bits=w8a8",
         *FEW, *QUICK, "budget.num_samples=8", "trace={seeds: 3000000-3000003}")  # fmt: skip
ENDS = ("evaluate", "evaluate_fp", "trace")  # which rest on all others
KEPT = 48  # values of a tensor, evenly spread
UNUSED = {"training_set", "export"}
"""A stage that only trainings need, and one whose folder is compared with its run bit for bit by test_export."""
NEAR, SHARE = 1e-3, 0.95  # of a value plus a tenth of the greatest one; of the values that must be as near as that
FLIPPED = 0.05  # instead of NEAR for what is measured on images of which a processor rounds single codes otherwise


def made(folder: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """A part of every tensor and number that each stage makes under this configuration, in float64."""
    tiny = tiny_folder(folder / "tiny")
    settings = {**config, "model": {**config["model"], "path": str(tiny), "sha256": folder_sha256(tiny)}}
    settings["runtime"] = {**config["runtime"], "outputs": str(folder)}
    graph = Graph(NODES, ArtifactStore(folder / "artifacts"), Progress(quiet=True))
    stages = dict.fromkeys(stage for end in ENDS for stage in graph.chain(end, settings))
    with in_float64():
        return {stage: dict(tensors(graph.ensure(stage, settings))) for stage in stages}


@contextlib.contextmanager
def in_float64() -> Iterator[None]:
    """Networks that are loaded inside compute in float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with patch.dict(numerics._DTYPES, float32=torch.float64), patch("dmq_cli.stages.build.model_adapter", loaded):
            yield
    finally:
        torch.set_default_dtype(before)


def loaded(model: Mapping[str, Any]) -> Adapter:
    """The network of a configuration, in float64."""
    adapter = model_adapter(model)
    adapter.model.double()
    adapter.model.register_forward_pre_hook(_as_float64)
    return adapter


def _as_float64(_: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Stored sets are float32; QuEST's fine-tuning calls the network with them as they are."""
    return tuple(x.double() if torch.is_tensor(x) and x.is_floating_point() else x for x in inputs)


def tensors(artifact: Path) -> Iterator[tuple[str, Tensor]]:
    """Every array of an artifact, and every number of its measurements."""
    arrays: dict[str, Any] = {}
    for file in sorted(artifact.iterdir()):
        if file.suffix == ".safetensors":
            arrays |= {f"{file.stem}.{name}": tensor for name, tensor in load_tensors(file).items()}
        elif file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as archive:
                arrays |= {name: torch.from_numpy(archive[name]) for name in archive.files}
        elif file.name == "numbers.json":
            numbers = json.loads(file.read_text(encoding="utf-8"))
            arrays |= {name: torch.tensor(value) for name, value in numbers["numbers"].items()}
    for name, tensor in arrays.items():
        flat = tensor.flatten().double()
        yield name, flat[:: max(1, len(flat) // KEPT)].clone()


def differing(stage: str, found: Mapping[str, Tensor], golden: Mapping[str, Tensor], near: float = NEAR) -> list[str]:
    """The tensors of a stage that are not what they were."""
    wrong = [f"{stage}: {name}" for name in sorted(found.keys() ^ golden.keys())]
    for name in sorted(found.keys() & golden.keys()):
        tensor, other = found[name], golden[name]
        if tensor.shape != other.shape or not alike(tensor, other, near):
            wrong.append(f"{stage}: {name}")
    return wrong


def alike(one: Tensor, other: Tensor, near: float) -> bool:
    """Whether most values are near to what they were; NaN stays NaN."""
    greatest = other.nan_to_num().abs().amax() if other.numel() else torch.zeros(())
    equal = (one - other).abs() <= near * (other.abs() + 0.1 * greatest) + 1e-9
    return not other.numel() or float((equal | (one.isnan() & other.isnan())).double().mean()) >= SHARE


def remembered() -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """config.json, and the tensors by stage."""
    by_stage: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_tensors(GOLDEN / "tensors.safetensors").items():
        stage, _, key = name.partition("/")
        by_stage.setdefault(stage, {})[key] = tensor
    return json.loads((GOLDEN / "config.json").read_text(encoding="utf-8")), by_stage


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Tensor]]:
    """What the stages make now."""
    return made(tmp_path_factory.mktemp("golden"), remembered()[0]["config"])


def test_the_golden_tensors_are_of_these_versions() -> None:
    config, _ = remembered()
    versions = {name: node.version_for(config["config"]) for name, node in NODES.items() if name not in UNUSED}
    assert config["versions"] == versions, "a version was raised: run python -m tests.stages.test_golden"


def test_no_stage_makes_other_numbers_under_its_version(here: dict[str, dict[str, Tensor]]) -> None:
    golden = remembered()[1]
    assert set(here) == set(NODES) - UNUSED == set(golden) and sum(map(len, golden.values())) > 300
    near = dict.fromkeys(here, NEAR)
    if any(not torch.equal(here["sample"][name], tensor) for name, tensor in golden["sample"].items()):
        near["evaluate"] = FLIPPED
    wrong = {stage: differing(stage, outputs, golden[stage], near[stage]) for stage, outputs in here.items()}
    first = next((names for names in wrong.values() if names), [])
    assert not first, f"raise the version of this stage in stages/nodes.py: {first[:5]}"


@pytest.mark.parametrize("change", [lambda x: 1.01 * x, lambda x: x + 0.01 * x.abs().max(), lambda x: -x])
def test_a_small_change_of_the_numbers_is_seen(here: dict[str, dict[str, Tensor]], change: Any) -> None:
    for stage, outputs in here.items():
        assert differing(stage, {name: change(tensor) for name, tensor in outputs.items()}, outputs), stage


def write() -> None:
    """Remember what the stages make now."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        whole = composed(*WORDS, f"model.path={tiny_folder(place / 'first')}")
        config = prepare({**whole, "stage": "evaluate"})
        config["model"]["path"] = config["runtime"]["outputs"] = ""
        by_stage = made(place, config)
    GOLDEN.mkdir(exist_ok=True)
    versions = {name: node.version_for(config) for name, node in NODES.items()}
    write_json(GOLDEN / "config.json", {"versions": versions, "config": config})
    save_tensors(
        GOLDEN / "tensors.safetensors", {f"{s}/{n}": t for s, outputs in by_stage.items() for n, t in outputs.items()}
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    write()
