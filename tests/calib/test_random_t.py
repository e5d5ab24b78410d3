from __future__ import annotations

from pathlib import Path

import pytest
import torch

from dmq_cli.calib import RandomT, collect
from dmq_cli.errors import ConfigError
from dmq_cli.sampling import DDIM
from tests.calib.walks import inputs, read, state, toy
from tests.tiny import SHAPE, one_sentence, scheduler


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_random_timesteps_of_longer_trajectories(tmp_path: Path, eta: float) -> None:
    strategy, plan = RandomT("3-10"), scheduler(10, spacing="quad")
    before = state(plan)
    collect(strategy, toy, plan, SHAPE, tmp_path, eta=eta, batch_size=3)
    assert state(plan) == before
    sample, timestep = read(tmp_path)
    assert len(sample) == strategy.size(10) == 8 * 20
    grid = [t * 10 for t in range(99, -1, -1)]
    every = inputs(scheduler(100), range(3, 11), eta)
    for i, times in enumerate(timestep.reshape(8, 20).tolist()):
        assert times == sorted(set(times), reverse=True), "no timestep twice, in sampling order"
        expected = every[i, [grid.index(t) for t in times]]
        assert torch.equal(sample[20 * i : 20 * i + 20], expected)
    assert len({tuple(times) for times in timestep.reshape(8, 20).tolist()}) == 8, "each trajectory has its own draw"
    outside = set(timestep.tolist()) - set(plan.timesteps.tolist())
    assert len(outside) > 60 and set(timestep.tolist()) <= set(grid)


def test_the_samplers_own_timesteps(tmp_path: Path) -> None:
    strategy, plan = RandomT("0-5", 3, trajectory_steps=None), scheduler(8, spacing="quad")
    assert strategy.scheduler(plan) is plan
    collect(strategy, toy, plan, SHAPE, tmp_path)
    sample, timestep = read(tmp_path)
    assert len(sample) == strategy.size(8) == 18 and set(timestep.tolist()) <= set(plan.timesteps.tolist())
    every = inputs(plan, range(6))
    calls = [plan.timesteps.tolist().index(t) for t in timestep.tolist()]
    assert torch.equal(sample, torch.stack([every[row // 3, call] for row, call in enumerate(calls)]))


@pytest.mark.parametrize(("steps", "total"), [(5, 5), (None, 4)])
def test_short_trajectories_are_kept_whole(tmp_path: Path, steps: int | None, total: int) -> None:
    strategy = RandomT("0-2", 20, trajectory_steps=steps)
    collect(strategy, toy, scheduler(4), SHAPE, tmp_path)
    sample, timestep = read(tmp_path)
    grid = scheduler(total)
    assert len(sample) == strategy.size(4) == 3 * total and timestep.tolist() == grid.timesteps.tolist() * 3
    assert torch.equal(sample, inputs(grid, range(3)).flatten(0, 1))


def test_the_copy_keeps_the_samplers_other_settings() -> None:
    plan = scheduler(10, clip_sample=True, set_alpha_to_one=False)
    copied = RandomT("0-1").scheduler(plan)
    assert (
        isinstance(copied, DDIM)
        and copied.config.clip_sample
        and copied.final_alpha_cumprod == plan.final_alpha_cumprod != 1
    )
    assert copied.timesteps.tolist() == scheduler(100).timesteps.tolist()


def test_every_timestep_is_as_likely() -> None:
    chosen = RandomT("0-1999").choose(scheduler(100), lambda num: iter(()))
    often = torch.tensor(chosen).flatten().bincount(minlength=100)
    assert often.sum() == 2000 * 20
    assert ((often - 400).abs() < 5 * (2000 * 0.2 * 0.8) ** 0.5).all()


@pytest.mark.parametrize(
    ("strategy", "named"),
    [
        (RandomT("0-1", 0), r"calib\.num_steps=0 keeps nothing"),
        (RandomT("0-1", trajectory_steps=0), r"calib\.trajectory_steps=0 does not fit.*1 to 1000"),
        (RandomT("0-1", trajectory_steps=1001), r"calib\.trajectory_steps=1001 does not fit"),
        (RandomT("0-1", draw_seed=-1), r"calib\.draw_seed=-1"),
    ],
)
def test_refusals(strategy: RandomT, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        collect(strategy, toy, scheduler(4), SHAPE, tmp_path)
    one_sentence(caught.value)
    assert list(tmp_path.iterdir()) == []
