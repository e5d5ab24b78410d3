"""Features that several processes extract: the same bits in every number, and nothing is left over."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dmq_cli.metrics import extract, extractors
from dmq_cli.stages import cuts, images, measuring
from dmq_cli.stages.cuts import CUTS, Features, is_cut
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.verbs import graph
from tests.chain import FEW, QUICK
from tests.stages.together import files, made_together
from tests.test_conf import composed

STAGES = ("evaluate_fp", "evaluate")
SIZE = 16  # of 40 images: three shards, the last of them smaller


@pytest.fixture(autouse=True)
def small_shards() -> Iterator[None]:
    with patch.object(cuts, "MEASURED", SIZE):
        yield


def prepared(model: Path, outputs: Path, workers: int = 1) -> dict[str, Any]:
    words = ["model=folder", "model.name=tiny", f"model.path={model}", *FEW, *QUICK, "method=minmax", "bits=w4a8"]
    config = prepare({**composed(*words, f"runtime.outputs={outputs}"), "stage": "evaluate"})
    return {**config, "runtime": {**config["runtime"], "workers": workers}}


def measured(config: dict[str, Any], stage: str, helpers: int = 0) -> dict[str, bytes]:
    """The files of an evaluation."""
    return files(made_together(config, stage, helpers))


@pytest.mark.parametrize("stage", STAGES)
def test_numbers_are_the_same_bytes_whatever_the_processes(stage: str, model: Path, tmp_path: Path) -> None:
    """Shards are whole batches of the extractor: those of one process have to begin where these do."""
    sizes = list[tuple[int, str]]()
    alone = patch.object(images, "extract", side_effect=AssertionError)
    with alone, patch.object(measuring, "extract", partial(extract, batch_size=SIZE)):
        whole = measured(prepared(model, tmp_path / "whole"), stage)

    def counting(pixels: Any, *rest: Any, **options: Any) -> Any:
        sizes.append((len(pixels), threading.current_thread().name))
        return extract(pixels, *rest, **options)

    with patch.object(images, "extract", counting):
        shared = measured(prepared(model, tmp_path / "shared", workers=3), stage, helpers=2)
    assert shared == whole and {"numbers.json", "influence.safetensors"} <= set(whole)
    assert sorted(size for size, _ in sizes) == [8, 16, 16]
    assert not [path for cut in CUTS.values() for path in (tmp_path / "shared" / "artifacts").glob(f"{cut.name}/*")]


def test_one_process_alone_writes_no_features(model: Path, tmp_path: Path) -> None:
    alone, several = prepared(model, tmp_path), prepared(model, tmp_path, workers=2)
    for stage in STAGES:
        assert is_cut(stage, several) and not is_cut(stage, alone)
        keys = {graph(config, Progress(quiet=True)).key(stage, config) for config in (alone, several)}
        assert len(keys) == 1, "the same artifact"


def test_shards_are_whole_batches_of_every_extractor() -> None:
    size = inspect.signature(extract).parameters["batch_size"].default
    assert Features("shard_features").pieces({"seeds": "0-2499", "runtime": {"workers": 2}})[1] == range(SIZE, 2 * SIZE)
    assert size == 250 and 1000 % size == 0 == 1000 % extractors._SEMANTIC_BATCH
