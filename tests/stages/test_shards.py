"""Images made in shards: the same bits whatever the number of processes, whoever dies, and nothing is left over."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmq_cli.results.images import load_images, save_images
from dmq_cli.stages import cuts, images
from dmq_cli.stages.cuts import CUTS, pieces
from dmq_cli.stages.prepare import prepare
from dmq_cli.stages.progress import Progress
from dmq_cli.stages.remembered import remembered_seconds
from dmq_cli.stages.shards import Shards
from dmq_cli.stages.verbs import graph, needs, take_part
from tests.chain import FEW, QUICK, artifacts, dmq, words
from tests.stages.test_golden import in_float64
from tests.stages.together import made_together
from tests.test_conf import composed

SIZE = 20  # of the shards here
SEEDS = "10-73"  # of four shards, the first and the last of them cut
STAGE = "sample_fp"


@pytest.fixture(autouse=True)
def small_shards() -> Iterator[None]:
    with patch.object(cuts, "SIZE", SIZE):
        yield


def prepared(small: Path, outputs: Path, stage: str = STAGE, **runtime: Any) -> dict[str, Any]:
    overrides = [*FEW, *QUICK, "method=minmax", "bits=w4a8", f"seeds={SEEDS}", f"runtime.outputs={outputs}"]
    config = prepare(
        {**composed("model=folder", "model.name=tiny", f"model.path={small}", *overrides), "stage": "sample"}
    )
    return {**config, "runtime": {**config["runtime"], **runtime}}


def made(config: dict[str, Any], stage: str = STAGE, helpers: int = 0) -> Any:
    """The images of an artifact."""
    return load_images(made_together(config, stage, helpers))


def left(outputs: Path) -> list[Path]:
    """What of shards is still there."""
    return [path for cut in CUTS.values() for path in (outputs / "artifacts").glob(f"{cut.name}/*")]


@given(st.integers(0, 3000), st.integers(1, 3000))
def test_pieces_are_the_range_cut_at_the_multiples_of_the_size(start: int, count: int) -> None:
    seeds = range(start, start + count)
    parts = pieces(seeds)
    assert [seed for part in parts for seed in part] == list(seeds)
    assert all(part.start % SIZE == 0 for part in parts[1:]) and all(part.stop % SIZE == 0 for part in parts[:-1])
    assert all(1 <= len(part) <= SIZE for part in parts)


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3)])
def test_joined_images_are_the_bytes_of_numpy_and_are_read_where_they_lie(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (50, *shape)).astype(np.uint8)
    save_images(tmp_path, [whole[:20], whole[20:21], whole[21:]])
    np.savez(tmp_path / "numpy.npz", arr_0=whole)
    content = (tmp_path / "images.npz").read_bytes()
    assert content == (tmp_path / "numpy.npz").read_bytes()
    there = load_images(tmp_path)
    assert (there == whole).all() and isinstance(there.base, np.memmap)
    there[:] = 0
    assert (tmp_path / "images.npz").read_bytes() == content, "what is changed in memory stays there"


def test_an_archive_of_another_kind_is_read_all_the_same(tmp_path: Path) -> None:
    whole = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 1)).astype(np.uint8)
    np.savez_compressed(tmp_path / "images.npz", arr_0=whole)
    assert (load_images(tmp_path) == whole).all()


ALL = [(stage, size, helpers) for stage in ("sample_fp", "sample") for size in (7, 50) for helpers in range(4)]
FAST = (("sample_fp", 7, 2), ("sample_fp", 50, 1))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("together")


@pytest.mark.parametrize(
    ("stage", "batch_size", "helpers"),
    [pytest.param(*case, marks=[] if case in FAST else pytest.mark.slow) for case in ALL],
)
def test_images_are_equal_whatever_the_workers_and_the_batch_size(
    stage: str, batch_size: int, helpers: int, small: Path, together: Path
) -> None:
    config = prepared(small, together, batch_size=batch_size)
    stage_graph = graph(config, Progress(quiet=True))
    with in_float64():
        with patch.object(cuts, "SIZE", 1000):
            whole = made({**config, "runtime": {**config["runtime"], "batch_size": 50, "force": [stage]}}, stage)
        stage_graph.store.remove(stage, stage_graph.key(stage, config))
        pixels = made(config, stage, helpers)
    stage_graph.store.remove(stage, stage_graph.key(stage, config))
    assert pixels.dtype == whole.dtype and (pixels == whole).all() and not left(together)
    assert whole.shape == (64, 8, 8, 1) and whole.std() > 1


def killed_at_random(small: Path, outputs: Path, times: int) -> None:
    """Kill a process that makes shards at random moments; then another one ends it."""
    config, chance = prepared(small, outputs, batch_size=5), random.Random(times)
    context = multiprocessing.get_context("fork")  # spawned, each would import PyTorch first
    for _ in range(times):
        with warnings.catch_warnings(action="ignore"):  # of threads, of which the child has none
            process = context.Process(target=take_part, args=([(STAGE, config)], lambda: True))
            process.start()
        time.sleep(chance.uniform(0, 0.3))
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_worker_loses_doubles_and_changes_no_image(times: int, small: Path, tmp_path: Path) -> None:
    whole = made(prepared(small, tmp_path / "whole", batch_size=5))
    killed_at_random(small, tmp_path / "killed", times)
    assert artifacts(tmp_path / "killed").get(STAGE, 0) == 0
    assert (made(prepared(small, tmp_path / "killed", batch_size=5)) == whole).all()
    assert not left(tmp_path / "killed")


def sampled(seeds: Sequence[int]) -> Any:
    """Record which seeds are sampled, in this list."""
    sample = images.Sampling.images

    def recording(self: images.Sampling, chunk: range) -> Any:
        seeds.extend(chunk)  # type: ignore[attr-defined]
        return sample(self, chunk)

    return patch.object(images.Sampling, "images", recording)


def test_a_longer_range_takes_the_images_of_a_shorter_one(small: Path, tmp_path: Path) -> None:
    config = prepared(small, tmp_path)
    first = made({**config, "seeds": "0-49"})
    with sampled(seeds := list[int]()):
        longer = made({**config, "seeds": "0-99"})
    assert sorted(seeds) == list(range(40, 100)), "the last of the shorter range's shards was cut"
    assert (longer[:50] == first).all()
    with sampled(seeds := list[int]()):
        made({**config, "seeds": "20-79"})
    assert seeds == []


def test_images_of_another_batch_size_are_not_mixed_in(small: Path, tmp_path: Path) -> None:
    made({**prepared(small, tmp_path, batch_size=5), "seeds": "0-49"})
    with sampled(seeds := list[int]()):
        made({**prepared(small, tmp_path, batch_size=10), "seeds": "0-99"})
    assert sorted(seeds) == list(range(100))


def test_a_shard_that_was_altered_is_made_again(small: Path, tmp_path: Path) -> None:
    config = prepared(small, tmp_path)
    whole = made(prepared(small, tmp_path / "whole"))
    with patch.object(images, "_join", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        made(config)
    shard = next(path for path in left(tmp_path) if path.name[0] != ".")
    save_images(shard, [np.zeros_like(load_images(shard))])
    with sampled(seeds := list[int]()):
        assert (made(config) == whole).all()
    assert 0 < len(seeds) <= SIZE


def test_shards_are_known_to_clean(small: Path, tmp_path: Path) -> None:
    config = prepared(small, tmp_path)
    with patch.object(images, "_join", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        made(config)
    keys = {path.name for path in left(tmp_path) if path.name[0] != "."}
    assert len(keys) == 4 and {("shard_fp", key) for key in keys} <= needs(config)
    planned = dmq("clean", "--dry-run", f"runtime.outputs={tmp_path}")
    assert "shard_fp              4 artifacts" in planned.out, planned.out
    assert dmq("clean", "--yes", f"runtime.outputs={tmp_path}").code == 0
    assert not [path for path in left(tmp_path) if path.name[0] != "."]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_ends_it_when_the_batch_is_written(name: str, small: Path, tmp_path: Path) -> None:
    command = words("sample", small, tmp_path, "method=minmax", "seeds=0-19", "runtime.batch_size=5")
    sample, seeds = images.Sampling.images, list[int]()

    def stopped(self: images.Sampling, chunk: range) -> Any:
        if chunk.start == 10:
            os.kill(os.getpid(), signal.Signals[name])
        return sample(self, chunk)

    with patch.object(images.Sampling, "images", stopped):
        ended = dmq(*command)
    assert (ended.code, ended.sentence) == (
        75,
        f"Stopped by {name}; what was finished is kept, the same command goes on from there.",
    )
    assert signal.getsignal(signal.Signals[name]) is signal.SIG_DFL
    with sampled(seeds):
        assert dmq(*command).code == 0
    assert seeds == [*range(15, 20), *range(20)], "of the twin only what was not written"


def test_a_plan_divides_by_the_workers_and_counts_what_is_there(small: Path, tmp_path: Path) -> None:
    config = prepared(small, tmp_path)
    made({**config, "seeds": "0-49"})
    stage_graph, further = graph(config, Progress(quiet=True)), {**config, "seeds": "100-179"}

    def seconds(workers: int) -> float | None:
        return remembered_seconds(stage_graph, STAGE, {**further, "runtime": {**config["runtime"], "workers": workers}})

    alone = seconds(1)
    assert alone is not None and alone > 0
    assert [seconds(workers) for workers in (2, 4, 32)] == pytest.approx([alone / 2, alone / 4, alone / 4])
    assert Shards(stage_graph, STAGE, {**config, "seeds": "0-79"}).there() == pytest.approx(40 / 80)
