from __future__ import annotations

import torch

from dmq_cli.ops import generators, noise


def test_a_row_depends_on_its_own_seed_only() -> None:
    whole = noise((3, 4, 4), generators(range(10)))
    parts = [noise((3, 4, 4), generators(range(first, first + 5))) for first in (0, 5)]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(noise((3, 4, 4), generators([7, 2])), whole[[7, 2]])
    assert not torch.equal(whole[0], whole[1])


def test_small_rows_at_odd_offsets_are_the_same_too() -> None:
    for shape in ((), (3,), (17,), (33,)):
        whole = noise(shape, generators(range(9)))
        alone = torch.cat([noise(shape, generators([seed])) for seed in range(9)])
        assert torch.equal(whole, alone)


def test_a_second_call_goes_on() -> None:
    batch, alone = generators([1, 2]), generators([2])
    first, second = noise((5,), batch), noise((5,), batch)
    assert not torch.equal(first, second)
    assert torch.equal(noise((5,), alone), first[1:]) and torch.equal(noise((5,), alone), second[1:])


def test_dtype_shape_and_empty_batches() -> None:
    assert noise((2, 3), generators([0]), torch.float64).dtype == torch.float64
    assert noise((2, 3), []).shape == (0, 2, 3)
    sample = noise((10_000,), generators([0]))
    assert abs(sample.mean().item()) < 0.05 and abs(sample.std().item() - 1) < 0.05
