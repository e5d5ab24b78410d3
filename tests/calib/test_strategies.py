"""What every strategy must keep to, and what is in conf/calib."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import Collection, NormalT, RandomT, Strategy, Tdac, Uniform, collect
from dmq_cli.models import ModelDenoiser
from dmq_cli.sampling import batches, parse_range, require_disjoint
from dmq_cli.stages import build
from tests.calib.walks import Watched, inputs, read, state
from tests.test_conf import choices, composed
from tests.tiny import SHAPE, adapter, scheduler

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "uniform": lambda: Uniform("3-12", 3),
    "every_step": lambda: Uniform("3-12", 1000),
    "normal_t": lambda: NormalT("3-12"),
    "random_t": lambda: RandomT("3-12", 4, 9),
    "random_t_own": lambda: RandomT("3-12", 4, None),
    "tdac": lambda: Tdac("3-12", radius=0.05, feature_samples=9),
}
SIZES = (1, 2, 3, 7, 64)
every_strategy = pytest.mark.parametrize("name", STRATEGIES)


def unasked(num: int) -> Iterator[Tensor]:
    raise AssertionError("only TDAC looks into the network")


@every_strategy
def test_the_files_are_the_same_whatever_the_batch_size(name: str, tmp_path: Path) -> None:
    strategy, schedule, files = STRATEGIES[name](), scheduler(6, spacing="quad"), []
    before = state(schedule)
    for size in SIZES:
        watched, folder = Watched(), tmp_path / str(size)
        progress: list[tuple[int, int]] = []
        collect(
            strategy, watched, schedule, SHAPE, folder, eta=0.5, batch_size=size,
            report=lambda *at, progress=progress: progress.append(at), adapter=watched.adapter,
        )  # fmt: skip
        assert watched.evaluations == strategy.evaluations(6)
        assert progress == [(min(done, 10), 10) for done in range(size, 10 + size, size)]
        files.append(tuple((folder / f"{part}.safetensors").read_bytes() for part in ("sample", "timestep")))
    assert len(files) == len(SIZES) == 5 and len(set(files)) == 1
    assert state(schedule) == before
    sample, timestep = read(tmp_path / "1")
    assert len(sample) == len(timestep) == strategy.size(6) and timestep.dtype == torch.int64


@every_strategy
def test_a_set_joined_from_its_batches_is_the_whole_one(name: str, tmp_path: Path) -> None:
    network = adapter(torch.float32)

    def collection() -> Collection:
        return Collection(STRATEGIES[name](), ModelDenoiser(network), scheduler(6, spacing="quad"), SHAPE, 0.5, network)

    def ignored(done: int, total: int) -> None: ...

    collection().write_all(tmp_path / "whole", 4, ignored)
    parts = [tmp_path / str(batch.start) for batch in batches(range(3, 13), 4)]
    for batch, part in zip(batches(range(3, 13), 4), parts, strict=True):
        collection().write(part, batch, 4, ignored)
    collection().join(tmp_path / "joined", parts)
    whole, joined = ({f.name: f.read_bytes() for f in (tmp_path / w).iterdir()} for w in ("whole", "joined"))
    assert len(parts) == 3 and len(whole) == 2 and joined == whole


@every_strategy
def test_every_pair_is_one_of_its_trajectory(name: str, tmp_path: Path) -> None:
    strategy, schedule, watched = STRATEGIES[name](), scheduler(6, spacing="quad"), Watched()
    collect(strategy, watched, schedule, SHAPE, tmp_path, eta=1.0, batch_size=4, adapter=watched.adapter)
    sample, timestep = read(tmp_path)
    plan = scheduler(9) if name == "random_t" else schedule
    every, grid = inputs(plan, range(3, 13), eta=1.0), plan.timesteps.tolist()
    each = len(sample) // 10
    for row, at in enumerate(timestep.tolist()):
        assert torch.equal(sample[row], every[row // each, grid.index(at)])
    assert len(sample) in (10, 30, 40, 60)


@every_strategy
def test_the_choice_on_a_network_does_not_depend_on_the_batch_size(name: str, tmp_path: Path) -> None:
    strategy, network = STRATEGIES[name](), adapter(torch.float32)
    for size in (3, 64):
        folder = tmp_path / str(size)
        collect(strategy, ModelDenoiser(network), scheduler(4), SHAPE, folder, batch_size=size, adapter=network)
    (first, t_first), (second, t_second) = read(tmp_path / "3"), read(tmp_path / "64")
    assert torch.equal(t_first, t_second) and torch.allclose(first, second, rtol=1e-3, atol=1e-4)


@every_strategy
def test_features_are_computed_only_for_tdac(name: str) -> None:
    strategy = STRATEGIES[name]()
    plan = strategy.scheduler(scheduler(6))
    if name == "tdac":
        with pytest.raises(AssertionError, match="only TDAC"):
            strategy.choose(plan, unasked)
        return
    chosen = strategy.choose(plan, unasked)
    assert len(chosen) == 10 and all(calls == sorted(set(calls)) for calls in chosen)
    assert sum(map(len, chosen)) == strategy.size(6)


def test_the_default_sets() -> None:
    expected = {  # rows for a sampler of 50 steps, trajectories
        "uniform": (2560, 128),
        "every_step": (6400, 128),
        "normal_t": (1024, 1024),
        "random_t": (5120, 256),
        "tdac": (1024, 1024),
    }
    assert set(choices("calib")) >= set(expected)
    for name, (rows, trajectories) in expected.items():
        strategy = build.make(composed(f"calib={name}")["calib"])
        strategy.check(scheduler(50))
        seeds = parse_range(strategy.seeds)
        assert seeds.start == 1000000 and len(seeds) == trajectories and strategy.size(50) == rows
        require_disjoint({"calib": seeds, "evaluation": range(40000), "correction": range(2000000, 10**7)})
