"""Every method runs through every family of models, guidance and first stage included: 84 pairs, of which 82 run.

The fast tests take each method through one family, in turn; the slow ones take all of them through all.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.errors import DmqError
from dmq_cli.results.images import load_images
from dmq_cli.results.record import ASKED
from dmq_cli.stages.graph import Graph
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.store import ArtifactStore, read_json
from tests import pipelines
from tests.chain import QUICK
from tests.test_conf import METHODS, composed
from tests.test_methods import FAST
from tests.tiny import one_sentence

IMAGES = 2
FEW = ["seeds=0-1", "budget.num_samples=4", "calib.seeds=1000000-1000002", "sampler.num_inference_steps=2"]
REFUSED = {  # by the transformer, which has neither a mid-block nor residual blocks
    "eda": "reads the attention of the mid-block",
    "eda_released": "reads the attention of the mid-block",
    "tcaq": "transform.match=resnet.conv* fits none",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: make(tmp_path_factory.mktemp("model") / kind) for kind, make in pipelines.FOLDERS.items()}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    with patch("dmq_cli.stages.graph.environment", dict):
        yield Graph(NODES, ArtifactStore(tmp_path_factory.mktemp("artifacts")), Progress(quiet=True))


def settled(kind: str, path: Path, method: str) -> dict[str, Any]:
    """The configuration of a method on a family, with few samples and one iteration of everything."""
    words = [f"model.path={word.removeprefix('model=')}" if word.startswith("model=") else word
             for word in pipelines.settings(kind, path)]  # fmt: skip
    quick = [word.replace("iterations=2", "iterations=1") for word in QUICK]
    corrected = method.startswith(("tac", "ptqd")) and method != "tcaq"
    more = ["correct.seeds=2000000-2000001"] if corrected else []
    config = composed("model=folder", f"model.name={kind}", f"method={method}", *words, *FEW, *quick, *more)
    return prepare({**config, "stage": "sample"})


def test_the_families_are_four() -> None:
    assert sorted(pipelines.FOLDERS) == ["latent", "prompts", "tokens", "transformer"] and len(METHODS) == 30


def run_all(kind: str, methods: list[str], folder: Path, graph: Graph) -> None:
    """Sample with each method; those that the family refuses say why, the others' images are decoded and asked for."""
    ran, refused = [], {}
    for method in methods:
        try:
            artifact = graph.ensure("sample", settled(kind, folder, method))
        except DmqError as error:
            refused[method] = one_sentence(error)
            continue
        ran.append(method)
        assert load_images(artifact).shape == (IMAGES, pipelines.SIZE, pipelines.SIZE, 1), "decoded"
        assert (artifact / ASKED).is_file() == (kind != "latent")
        if kind != "latent":
            assert len(read_json(artifact / ASKED)["asked"]) == IMAGES
    expected = {method: part for method, part in REFUSED.items() if kind == "transformer" and method in methods}
    assert set(refused) == set(expected) and len(ran) == len(methods) - len(expected)
    assert all(part in refused[method] for method, part in expected.items())


def in_turn(kind: str) -> list[str]:
    """Of one method of every kind each fourth, and for the transformer those that it refuses; all others are slow tests."""
    number = ["transformer", *(other for other in pipelines.FOLDERS if other != "transformer")].index(kind)
    fast = [m for i, m in enumerate(sorted(FAST - set(REFUSED), reverse=True)) if i % 4 == number]
    return fast + [m for m in REFUSED if kind == "transformer"]


def test_in_turn_every_kind_of_method_has_a_family() -> None:
    assert {method for kind in pipelines.FOLDERS for method in in_turn(kind)} == FAST | set(REFUSED)


@pytest.mark.parametrize("kind", pipelines.FOLDERS)
def test_methods_run_in_turn(kind: str, folders: dict[str, Path], graph: Graph) -> None:
    run_all(kind, in_turn(kind), folders[kind], graph)


@pytest.mark.slow
@pytest.mark.parametrize("kind", pipelines.FOLDERS)
def test_every_method_runs(kind: str, folders: dict[str, Path], graph: Graph) -> None:
    run_all(kind, METHODS, folders[kind], graph)
