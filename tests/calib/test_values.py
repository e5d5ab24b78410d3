from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dmq_cli.calib import values
from dmq_cli.calib.values import Draws, Values


def kept(samples: Tensor, size: int, groups: Tensor | None = None, channel: int = 0, group: int = 0) -> Tensor:
    """What is kept of samples (N, channels, n) that come in batches."""
    draws, pool = Draws(), Values()
    for first in range(0, len(samples), size):
        batch = samples[first : first + size]
        draws.start(first, len(batch))
        of = torch.zeros(len(samples), dtype=torch.int64) if groups is None else groups
        mine = of[first : first + size] == group
        pool.add(group, batch[mine], draws.places(batch.shape[2])[mine])
    return pool.of(group, channel)


@pytest.mark.parametrize("length", [3, 700, 4096, 9000])
def test_what_is_kept_does_not_depend_on_the_batches(length: int) -> None:
    samples = torch.arange(64 * 2 * length, dtype=torch.float64).view(64, 2, length)
    whole = kept(samples, 64, channel=1)
    for size in (1, 7, 50):
        assert torch.equal(kept(samples, size, channel=1), whole)


def test_all_is_kept_where_there_is_little() -> None:
    samples = torch.randperm(40 * 100).view(40, 1, 100)
    assert torch.equal(kept(samples, 7).sort().values, torch.arange(4000))


@pytest.mark.parametrize("length", [1000, 5000])
def test_every_sample_has_an_equal_share_and_memory_is_bounded(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "KEPT_VALUES", 4096 * 4)
    samples = torch.arange(64.0)[:, None, None].expand(-1, 1, length)
    counts = torch.bincount(kept(samples, 2).long(), minlength=64)
    assert int(counts.min()) == int(counts.max())
    assert 4096 * 2 < int(counts.sum()) <= 4096 * 4


def test_a_part_is_spread_evenly_over_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Places of a part are random, too: not the first ones."""
    monkeypatch.setattr(values, "KEPT_VALUES", 1 << 15)
    for length in (3000, 20000):
        places = kept(torch.arange(float(length)).expand(512, 1, -1), 512) / length
        assert 1 << 14 < len(places) <= 1 << 15
        counts = torch.histc(places, bins=10, min=0, max=1)
        assert float((counts / len(places) - 0.1).abs().max()) < 5 * (0.09 / len(places)) ** 0.5


def test_groups_do_not_take_from_each_other() -> None:
    samples, groups = torch.randn(60, 1, 4096), torch.arange(60) % 3
    result = kept(samples, 7, groups, group=1)
    members = samples[groups == 1].flatten()
    assert len(result) == 20 * 4096 and torch.equal(result.sort().values, members.sort().values)
