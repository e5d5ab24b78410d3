from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import Uniform, collect
from dmq_cli.errors import ConfigError
from dmq_cli.models import ModelDenoiser
from dmq_cli.ops import generators, noise
from tests.calib.walks import inputs, read, toy
from tests.tiny import SHAPE, adapter, one_sentence, scheduler


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_inputs_of_the_chosen_steps_of_every_trajectory(tmp_path: Path, eta: float) -> None:
    strategy, plan = Uniform("7-11", 3), scheduler(10)
    progress: list[tuple[int, int]] = []
    collect(strategy, toy, plan, SHAPE, tmp_path, eta=eta, batch_size=2, report=lambda *at: progress.append(at))
    sample, timestep = read(tmp_path)
    assert progress == [(2, 5), (4, 5), (5, 5)] and strategy.size(10) == len(sample) == 15
    assert timestep.dtype == torch.int64 and sample.dtype == torch.float32
    streams = generators(range(7, 12))
    x, rows = noise(SHAPE, streams), {}
    for call, at in enumerate(plan.timesteps.tolist()):
        if call in (0, 3, 6):
            rows[at] = x
        x = plan.step(toy(x, torch.tensor([at])), at, x, eta=eta, noise=noise(SHAPE, streams) if eta else None)
    assert sorted(rows) == [300, 600, 900]
    for at, expected in rows.items():
        assert torch.equal(sample[timestep == at], expected)


@pytest.mark.parametrize("size", [1, 2, 64])
def test_rows_come_trajectory_after_trajectory(tmp_path: Path, size: int) -> None:
    plan = scheduler(10)
    collect(Uniform("7-11", 3), toy, plan, SHAPE, tmp_path, eta=0.5, batch_size=size)
    sample, timestep = read(tmp_path)
    assert timestep.tolist() == [900, 600, 300] * 5
    assert torch.equal(sample, inputs(plan, range(7, 12), eta=0.5)[:, [0, 3, 6]].flatten(0, 1))


def test_as_many_steps_as_there_are_keep_every_step(tmp_path: Path) -> None:
    plan = scheduler(7, spacing="quad")
    collect(Uniform("0-2", 1000), toy, plan, SHAPE, tmp_path)
    sample, timestep = read(tmp_path)
    assert timestep.tolist() == plan.timesteps.tolist() * 3
    assert torch.equal(sample, inputs(plan, range(3)).flatten(0, 1))


def test_the_files_do_not_depend_on_the_batch_size(tmp_path: Path) -> None:
    denoiser = ModelDenoiser(adapter(torch.float32))
    for size in (1, 2, 3, 5, 64):
        collect(Uniform("0-4", 2), denoiser, scheduler(4), SHAPE, tmp_path / str(size), batch_size=size)
    sample, timestep = read(tmp_path / "1")
    for size in (2, 3, 5, 64):
        others = read(tmp_path / str(size))
        assert torch.equal(others[1], timestep) and torch.allclose(others[0], sample, rtol=1e-3, atol=1e-4)


def test_steps_are_evenly_spaced() -> None:
    assert Uniform("0-1", 4).steps(20) == [0, 5, 10, 15]
    assert Uniform("0-1", 3).steps(10) == [0, 3, 6]
    assert Uniform("0-1", 10).steps(10) == list(range(10))
    assert Uniform("0-1", 11).steps(10) == list(range(10))  # at most
    assert Uniform("0-1", 20).steps(96)[-3:] == [81, 86, 91], "k = 4 would end at call 76"
    for total, num in itertools.product(range(1, 60), range(1, 60)):
        steps = Uniform("0-1", num).steps(total)
        gaps = {after - before for before, after in itertools.pairwise([*steps, total])}
        assert len(steps) == min(num, total) and steps[0] == 0 and max(gaps) - min(gaps) <= 1
    with pytest.raises(ConfigError, match=r"calib\.num_steps=0 keeps nothing") as caught:
        Uniform("0-1", 0).steps(10)
    one_sentence(caught.value)


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    def broken(sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        collect(Uniform("0-4", 2), broken, scheduler(4), SHAPE, tmp_path)
    assert list(tmp_path.iterdir()) == []
