from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from dmq_cli.calib import NormalT, collect
from dmq_cli.errors import ConfigError
from tests.calib.walks import inputs, read, toy
from tests.tiny import SHAPE, one_sentence, scheduler


@pytest.mark.parametrize(("mean", "std", "training"), [(0.4, 0.4, 1000), (0.5, 0.35, 4000), (0.0, 1.0, 50)])
def test_draws_are_cut_and_clamped_normals(mean: float, std: float, training: int) -> None:
    generator = torch.Generator().manual_seed(3)
    normal = torch.randn(2000, generator=generator, dtype=torch.float64).numpy()
    raw = mean * training + std * training * normal
    expected = np.clip(np.trunc(raw), 0, training - 1).astype(np.int64)
    assert (raw < -1).sum() > 100 and (raw > training).sum() > 20 and (raw != np.trunc(raw)).any()
    draws = NormalT("0-1", mean, std, draw_seed=3).draw(2000, training)
    assert draws.dtype == torch.int64 and draws.tolist() == expected.tolist()


def test_draws_have_the_mean_and_spread_that_were_asked_for() -> None:
    draws = NormalT("0-1", 0.5, 0.1).draw(20_000, 1000).double()
    # the integer part of a positive number lies half a timestep lower
    assert abs(draws.mean() + 0.5 - 500) < 5 * 100 / 20_000**0.5 and abs(draws.std() - 100) < 2.5


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("spacing", ["uniform", "quad"])
def test_every_row_is_its_trajectory_at_the_timestep_nearest_to_the_draw(
    tmp_path: Path, spacing: str, eta: float
) -> None:
    strategy, plan = NormalT("5-64"), scheduler(10, spacing=spacing)
    collect(strategy, toy, plan, SHAPE, tmp_path, eta=eta, batch_size=7)
    sample, timestep = read(tmp_path)
    assert len(sample) == len(timestep) == strategy.size(10) == 60
    every, grid = inputs(plan, range(5, 65), eta), plan.timesteps.tolist()
    for row, drawn in enumerate(strategy.draw(60, 1000).tolist()):
        call = min(range(10), key=lambda k: (abs(grid[k] - drawn), -grid[k]))
        assert timestep[row] == grid[call]
        assert torch.equal(sample[row], every[row, call])
    assert len(set(timestep.tolist())) >= 7


def test_time_does_not_run_backwards_in_the_labels(tmp_path: Path) -> None:
    plan = scheduler(10)
    every = inputs(plan, range(3))
    for mean, label, call in ((0.0, 0, 9), (1.0, 900, 0)):
        collect(NormalT("0-2", mean, 0.0), toy, plan, SHAPE, tmp_path)
        sample, timestep = read(tmp_path)
        assert timestep.tolist() == [label] * 3 and torch.equal(sample, every[:, call])


def test_a_draw_between_two_timesteps_takes_the_noisier() -> None:
    plan = scheduler(2)
    assert plan.timesteps.tolist() == [500, 0]
    for mean, call in ((0.249, 1), (0.25, 0), (0.251, 0)):
        assert NormalT("0-0", mean, 0.0).choose(plan, lambda num: iter(())) == [[call]]


def test_another_draw_seed_draws_other_timesteps() -> None:
    first, second = (NormalT("0-1", draw_seed=seed).draw(50, 1000).tolist() for seed in (0, 1))
    assert first != second


@pytest.mark.parametrize(
    ("strategy", "named"),
    [
        (NormalT("0-1", mean=-0.1), r"calib\.mean=-0\.1"),
        (NormalT("0-1", mean=400.0), r"calib\.mean=400"),
        (NormalT("0-1", mean=float("nan")), r"calib\.mean=nan"),
        (NormalT("0-1", std=-1.0), r"calib\.std=-1"),
        (NormalT("0-1", std=float("inf")), r"calib\.std=inf"),
        (NormalT("0-1", draw_seed=-1), r"calib\.draw_seed=-1"),
        (NormalT("0-1", draw_seed=2**63), r"calib\.draw_seed=9223372036854775808"),
    ],
)
def test_refusals(strategy: NormalT, named: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        collect(strategy, toy, scheduler(4), SHAPE, tmp_path)
    one_sentence(caught.value)
    assert list(tmp_path.iterdir()) == []
