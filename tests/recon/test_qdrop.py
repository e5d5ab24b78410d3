from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.quant import Nearest, Static, TensorQuantizer, Uniform
from dmq_cli.recon import Pass, Scales
from dmq_cli.recon.fine import mixed
from dmq_cli.store.tensors import RowFile
from dmq_cli.wrap import Attached, Rule
from tests.recon.runs import (
    ACTIVATIONS,
    FEW_UNITS,
    ROUNDING,
    SMALL_ACTIVATIONS,
    SMALL_UNITS,
    assert_same,
    few,
    joint,
    run,
    small,
)

LARGE = 40_000  # of so many elements 0.5 +- 0.01 come from one side; the standard deviation is 0.5 / sqrt(n)


def about_half(chosen: Tensor) -> bool:
    return abs(float(chosen.double().mean()) - 0.5) < 2 / math.sqrt(chosen.numel())


@pytest.mark.parametrize("main", ["0", "hidden_states", "input"])
def test_about_half_of_the_main_input_is_full_precision(main: str) -> None:
    quantized, full = ({main: torch.full((LARGE,), value), "1": torch.full((9,), value)} for value in (0.0, 1.0))
    first, second = mixed(quantized, full, 0.5), mixed(quantized, full, 0.5)
    assert set(first[main].tolist()) == {0.0, 1.0} and about_half(first[main])
    assert about_half(first[main] != second[main]), "drawn anew, independently"
    assert list(first) == [main, "1"] and first["1"] is quantized["1"]
    assert float(mixed(quantized, full, 0.1)[main].mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(mixed(quantized, full, 1.0)[main], full[main])
    assert mixed(quantized, full, 0.0) is quantized


def test_all_inputs_are_mixed_where_a_pass_says_so() -> None:
    quantized, full = (
        dict[str, Any]({"0": torch.full((LARGE,), value), "1": torch.full((LARGE,), value)}) for value in (0.0, 1.0)
    )
    for inputs in (quantized, full):
        inputs |= {"labels": torch.tensor([3]), "scale": 1.0}
    half = mixed(quantized, full, 0.5, "all")
    assert about_half(half["0"]) and about_half(half["1"]) and about_half(half["0"] != half["1"]), "each by itself"
    whole = mixed(quantized, full, 1.0, "all")
    assert torch.equal(whole["0"], full["0"]) and torch.equal(whole["1"], full["1"])
    assert (
        whole["scale"] == 1.0 and torch.equal(whole["labels"], quantized["labels"]) and list(whole) == list(quantized)
    )
    assert torch.equal(mixed(quantized, full, 1.0)["1"], quantized["1"])


def test_inputs_without_a_main_one_are_not_mixed() -> None:
    quantized, full = ({"timestep": torch.full((9,), value)} for value in (0.0, 1.0))
    assert mixed(quantized, full, 0.5) is quantized


def test_a_unit_reads_elements_of_both_networks(tmp_path: Path) -> None:
    """One sample: what the unit reads is one captured input or the other, element by element; the embedding is quantized."""
    attached, unit, calls = few(weight=2), "up_blocks.0.resnets.0", list[tuple[Tensor, Tensor]]()
    module = attached.model.get_submodule(unit)
    learning = [False]
    module.register_forward_pre_hook(lambda _m, args: calls.append(args) if torch.is_grad_enabled() else None)

    def check(_: str, now: str) -> bool:
        if now == unit:
            learning[0] = True
            folder = tmp_path / "tmp-capture"
            quantized, full = (
                RowFile(folder / side / f"{unit}--0.safetensors").rows([0]) for side in ("quantized", "full")
            )
            embedding = RowFile(folder / "quantized" / f"{unit}--1.safetensors").rows([0])
            main, time = calls[-1]
            from_quantized, from_full = main == quantized, main == full
            assert (from_quantized | from_full).all() and about_half(from_full[quantized != full])
            assert (quantized != full).double().mean() > 0.5 and torch.equal(time, embedding)
        return False

    run(joint(iterations=3, mix=0.5, batch_size=1), attached, tmp_path, check, num=1)
    assert learning == [True] and len(calls) == 3
    assert not torch.equal(calls[0][0], calls[1][0]) and not torch.equal(calls[1][0], calls[2][0])


def quantizer() -> TensorQuantizer:
    tensor_quantizer = TensorQuantizer(Uniform(4), Static(torch.tensor(0.2, dtype=torch.float64), 3.0), Nearest())
    tensor_quantizer.scale.scale.requires_grad_(True)
    return tensor_quantizer


def test_a_dropping_quantizer_lets_about_half_of_the_elements_pass() -> None:
    tensor_quantizer, x = quantizer(), torch.linspace(-2, 4, LARGE, dtype=torch.float64, requires_grad=True)
    quantized = tensor_quantizer(x).detach()
    tensor_quantizer.drop = 0.5
    output = tensor_quantizer(x)
    untouched = output == x
    assert about_half(untouched) and torch.equal(output[~untouched], quantized[~untouched])
    output.sum().backward()
    inside = (x >= -0.6 - 0.1) & (x <= 2.4 + 0.1)  # codes 0..15 with zero point 3, half a code beyond each end
    assert 0.1 < float(inside.double().mean()) < 0.9 and x.grad is not None
    assert torch.equal(x.grad, torch.where(untouched | inside, 1.0, 0.0))
    slopes = ((quantized - torch.where(inside, x.detach(), 0.0)) / 0.2)[~untouched]  # LSQ's, of what is not untouched
    assert float(tensor_quantizer.scale.scale.grad) == pytest.approx(float(slopes.sum()), rel=1e-9)  # type: ignore[arg-type]


def test_without_dropping_nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor_quantizer, x = quantizer(), torch.linspace(-2, 4, 99, dtype=torch.float64)
    expected = tensor_quantizer(x)
    monkeypatch.setattr(torch, "rand_like", None)
    tensor_quantizer.drop = 0.0
    assert torch.equal(tensor_quantizer(x), expected)


def drops(attached: Attached) -> dict[str, float]:
    return {name: tensor_quantizer.drop for name, tensor_quantizer in attached.quantizers().items()}


@pytest.mark.parametrize("killed", [False, True])
def test_activations_drop_only_while_their_unit_learns(killed: bool, tmp_path: Path) -> None:
    attached, checked, units = small(), set[str](), list[str]()

    def check(_: str, unit: str) -> bool:
        inside = {n for n in attached.quantizers(*ACTIVATIONS) if n.startswith(f"{unit}.")}
        assert drops(attached) == {name: 0.5 * (name in inside) for name in attached.quantizers()}
        checked.update(inside)
        units.append(unit)
        return killed and len(units) == 4

    if killed:
        with pytest.raises(KeyboardInterrupt):
            run(joint(iterations=1, drop=0.5), attached, tmp_path, check)
    else:
        run(joint(iterations=1, drop=0.5), attached, tmp_path, check)
        assert len(checked) == SMALL_ACTIVATIONS and len(units) == SMALL_UNITS
    assert set(drops(attached).values()) == {0.0}


def test_zero_of_everything_is_the_plain_joint_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn, no layer is watched, no full-precision input is kept; and it is what ever smaller parts lead to."""
    mixing, dropping, plain = few(), few(), few()
    mixed_ = run(joint(mix=1e-15), mixing, tmp_path / "mixing")["joint"]
    dropped = run(joint(drop=1e-15), dropping, tmp_path / "dropping")["joint"]
    monkeypatch.setattr(torch, "rand_like", None)
    monkeypatch.setattr("dmq_cli.recon.learning.LayerErrors", None)
    assert Pass(2, ROUNDING, Scales(lr=0.01), mix=0.0, drop=0.0, fine=0.0) == joint().passes["joint"]
    losses = run(joint(), plain, tmp_path / "plain")["joint"]
    assert list(losses) == FEW_UNITS and losses == mixed_
    assert_same(mixing, plain)
    assert all(
        dropped[unit] == pytest.approx(values, rel=1e-12) for unit, values in losses.items()
    )  # sums in another order
    files = [
        {f.name.partition("--")[2] for f in (tmp_path / name / "tmp-capture" / "full").iterdir()}
        for name in ("mixing", "plain")
    ]
    assert files == [{"0.safetensors", "target.safetensors"}, {"target.safetensors"}]


@pytest.mark.parametrize("fields", [{"mix": 0.5}, {"drop": 0.5}])
def test_the_seed_decides_what_is_dropped(fields: dict[str, Any], tmp_path: Path) -> None:
    """One sample, so that the seed has nothing else to decide."""
    rest = (Rule("edge.*", bits=32), Rule("attn.*", bits=32))
    runs = [(0, {}), (1, {}), (0, fields), (0, fields), (1, fields)]
    before = torch.get_rng_state()
    losses = [
        run(joint(1, seed=seed, batch_size=1, **more), few(*rest), tmp_path / str(number), num=1)["joint"]["up_blocks.0.resnets.1"]
        for number, (seed, more) in enumerate(runs)
    ]  # fmt: skip
    assert losses[0] == losses[1] != losses[2] == losses[3] != losses[4]
    assert torch.equal(torch.get_rng_state(), before), "the rest of the process draws what it would have drawn"
