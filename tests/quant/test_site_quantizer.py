"""Whatever stands at a site answers the same questions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dmq_cli.quant import (
    BySnr,
    Choice,
    FullPrecision,
    Log2,
    Nearest,
    PerStep,
    SiteQuantizer,
    Split,
    Static,
    StepContext,
    TensorQuantizer,
    Uniform,
    site_quantizer,
)

X = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def quantizer(scale: float) -> TensorQuantizer:
    return TensorQuantizer(Uniform(4), Static(torch.tensor(scale).double(), 7.0), Nearest())


def choice(context: StepContext) -> Choice:
    return Choice(context, BySnr((4, 8)), [quantizer(0.1), quantizer(0.5)], 3)


def test_nothing_stands_for_full_precision() -> None:
    nothing = site_quantizer(FullPrecision())
    assert nothing(X) is X and not nothing.enabled and list(nothing.parts) == [] and nothing.pieces(X) == (X,)
    assert bool(nothing.interval(X).isnan()) and not list(FullPrecision().state_dict())


def test_a_split_is_on_where_a_part_is_and_has_their_mean_interval() -> None:
    split = Split((1, 3), [quantizer(0.2), quantizer(0.4)])
    first, second = split.pieces(X)
    assert torch.equal(torch.cat([first, second], 1), X) and first.shape == (2, 1, 3)
    assert float(split.interval(X)) == pytest.approx(0.3) and split.enabled
    for part in split.parts:
        assert isinstance(part, TensorQuantizer)
        part.enabled = False
    assert not any([split.enabled, Split((4,), [FullPrecision()]).enabled])


def test_a_choice_has_the_interval_of_the_part_that_the_step_takes() -> None:
    context = StepContext()
    selector = choice(context)
    selector.choice.copy_(torch.tensor([0, 1, 0]))
    intervals = []
    for step in range(3):
        with context.at(torch.tensor([step])):
            intervals.append(float(selector.interval(X)))
    assert intervals == pytest.approx([0.1, 0.5, 0.1]) and [piece is X for piece in selector.pieces(X)] == [True]


def test_a_table_has_the_interval_of_its_row_and_powers_of_two_have_none() -> None:
    context = StepContext()
    table = PerStep(context, torch.tensor([0.1, 0.3]).double(), torch.zeros(2).double())
    with context.at(torch.tensor([1])):
        assert float(TensorQuantizer(Uniform(4), table, Nearest()).interval(X)) == pytest.approx(0.3)
    log2 = TensorQuantizer(Log2(4), Static(torch.tensor(1.0).double()), Nearest())
    assert bool(log2.interval(X).isnan())


def test_all_of_them_are_modules_and_fit_the_protocol() -> None:
    every: list[SiteQuantizer] = [FullPrecision(), quantizer(0.1), Split((4,), [quantizer(0.1)]), choice(StepContext())]
    for module in every:
        assert isinstance(module, nn.Module) and sum(piece.shape[1] for piece in module.pieces(X)) == 4
        assert module.enabled == (not isinstance(module, FullPrecision)) and len(list(module.parts)) in (0, 1, 2)
