from __future__ import annotations

import os
import weakref
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import ModelDenoiser
from dmq_cli.quant import FixedRound, Nearest, SoftRound, Uniform
from dmq_cli.recon import (
    AdaRound,
    NoReconstruction,
    Pass,
    Reconstruction,
    Scales,
    SignSteps,
    module_names,
    record,
)
from dmq_cli.recon.capture import Captured
from dmq_cli.recon.capture import capture as capture_
from dmq_cli.wrap import QuantDenoiser, Rule, bake, state
from tests.recon.runs import (
    ACTIVATIONS,
    FEW_UNITS,
    NUM,
    PER_STEP,
    SMALL_ACTIVATIONS,
    SMALL_UNITS,
    SMALL_WEIGHTS,
    assert_same,
    brecq,
    few,
    joint,
    output_error,
    rows,
    run,
    small,
)
from tests.tiny import SMALL, adapter, data, network, one_sentence

SYMMETRIC = Rule("*.weight", grid=partial(Uniform, symmetric=True))
SPLIT = "up_blocks.0.resnets.0.conv_shortcut.weight_quantizer.parts"


def test_soft_rounding_starts_at_full_precision(tmp_path: Path) -> None:
    attached = small(SYMMETRIC)
    losses = run(brecq(weights=1, scales=2, rounding=AdaRound(warmup=1.0)), attached, tmp_path)
    units = attached.units()
    assert list(losses["weights"]) == units and len(units) == SMALL_UNITS and list(losses["scales"]) == units
    assert losses["weights"]["time_embedding.linear_1"][0] < 1e-10
    assert losses["weights"]["conv_in"][0] < 1e-10  # has no quantized predecessor either
    assert losses["weights"]["conv_out"][0] > 1e-4


def test_learned_rounding_beats_nearest(tmp_path: Path) -> None:
    nearest, attached = small(), small()
    settings = brecq(weights=40, scales=0, rounding=AdaRound(lr=0.05, regulariser=1e-3), batch_size=NUM)
    losses = run(settings, attached, tmp_path)
    bake(nearest)
    assert output_error(attached) < 0.6 * output_error(nearest)
    assert all(isinstance(q.rounding, FixedRound) for q in attached.quantizers("weight").values())
    assert all(isinstance(q.rounding, Nearest) for q in attached.quantizers(*ACTIVATIONS).values())
    turned, count = 0, 0
    for name, quantizer, weight, _ in attached.weight_pieces():
        assert isinstance(quantizer.rounding, FixedRound)
        turned += int((quantizer.codes(weight) != nearest.quantizers()[name].codes(weight)).sum())
        count += weight.numel()
    assert 0.02 < turned / count < 0.5
    assert len(losses["weights"]) == SMALL_UNITS


def test_the_first_activation_loss_by_hand(tmp_path: Path) -> None:
    """Every sample at its own step; conv_in comes first, so its inputs are the samples themselves."""
    attached = small(PER_STEP, Rule("*.weight", bits=32), act=3)
    sample, timestep = data(NUM)
    with attached.context.at(attached.grid(timestep)):
        quantized = attached.model.get_submodule("conv_in")(sample)
    full = network(**SMALL).get_submodule("conv_in")(sample)
    expected = float((quantized - full).abs().pow(2.4).sum(1).mean())
    losses = run(brecq(batch_size=NUM), attached, tmp_path)
    assert losses["weights"] == {} and losses["scales"]["conv_in"][0] == pytest.approx(expected, rel=1e-9)
    assert expected > 1e-3


def test_losses_fall_in_the_pass_of_the_scales(tmp_path: Path) -> None:
    attached = small(weight=8, act=3)
    settings = brecq(weights=0, scales=20, steps=Scales(lr=0.02, relative=False), batch_size=NUM)
    before, scales = output_error(attached, activations=True), scales_of(attached)
    losses = run(settings, attached, tmp_path)["scales"]
    fell = [values[-1] < values[0] for values in losses.values()]
    assert len(fell) == SMALL_UNITS and sum(fell) >= SMALL_UNITS - 2
    assert output_error(attached, activations=True) < before
    after = scales_of(attached)
    moved = {name for name, value in scales.items() if not torch.equal(value, after[name])}
    assert moved == set(attached.quantizers(*ACTIVATIONS)) and len(moved) == SMALL_ACTIVATIONS
    assert not any(p.requires_grad for p in attached.model.parameters())


def scales_of(attached: Any) -> dict[str, Tensor]:
    return {name: quantizer.scale.scale.clone() for name, quantizer in attached.quantizers().items()}


def test_both_halves_of_a_split_are_regularised_and_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roundings: list[SoftRound] = []
    original = SoftRound.regulariser

    def regulariser(self: SoftRound, beta: float) -> Tensor:
        roundings.append(self)
        return original(self, beta)

    monkeypatch.setattr(SoftRound, "regulariser", regulariser)
    attached = small()
    run(brecq(weights=3, scales=1, rounding=AdaRound(warmup=0.4)), attached, tmp_path)
    weights = attached.quantizers("weight")
    assert len(set(map(id, roundings))) == len(weights) == SMALL_WEIGHTS and len(roundings) == 2 * SMALL_WEIGHTS
    assert all(isinstance(weights[f"{SPLIT}.{i}"].rounding, FixedRound) for i in (0, 1))


def test_the_regulariser_alone_pushes_every_rounding_to_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    roundings: list[SoftRound] = []
    original = SoftRound.frozen

    def frozen(self: SoftRound) -> FixedRound:
        roundings.append(self)
        return original(self)

    monkeypatch.setattr(SoftRound, "frozen", frozen)
    strong = AdaRound(lr=0.2, regulariser=10.0, warmup=0.0)
    run(brecq(weights=40, scales=0, rounding=strong, batch_size=2), few(), tmp_path)
    ends = torch.cat([r.h().detach().flatten() for r in roundings])
    assert len(roundings) == 16 and float(((ends == 0) | (ends == 1)).double().mean()) > 0.95


def test_eval_mode_and_dropout(tmp_path: Path) -> None:
    plain, dropped = (few(dropout=rate) for rate in (0.0, 0.5))
    for number, attached in enumerate((plain, dropped)):
        run(brecq(), attached, tmp_path / str(number))
        assert not attached.model.training
    assert_same(plain, dropped)


@pytest.mark.parametrize(
    ("stage", "number", "rules"),
    [("weights", 0, ()), ("weights", 3, (PER_STEP,)), ("scales", 0, (PER_STEP,)), ("scales", 2, ())],
)
def test_a_run_that_was_killed_ends_in_the_same_bytes(
    stage: str, number: int, rules: tuple[Rule, ...], tmp_path: Path
) -> None:
    settings, whole = brecq(weights=2, scales=1), few(*rules)
    run(settings, whole, tmp_path / "whole")
    victim = few(*rules)
    unit = FEW_UNITS[number]
    with pytest.raises(KeyboardInterrupt):
        run(settings, victim, tmp_path / "killed", lambda *at: at == (stage, unit))
    again = few(*rules)
    losses = run(settings, again, tmp_path / "killed")
    assert list(losses[stage]) == FEW_UNITS[number:]
    assert {name: len(units) for name, units in losses.items() if name != stage} == (
        {"scales": len(FEW_UNITS)} if stage == "weights" else {"weights": 0}
    )
    assert_same(whole, again)
    assert torch.equal(QuantDenoiser(whole)(*data()), QuantDenoiser(again)(*data()))


@pytest.mark.parametrize("number", [0, 3])
def test_a_run_with_random_numbers_that_was_killed_ends_in_the_same_bytes(number: int, tmp_path: Path) -> None:
    settings, whole = joint(mix=0.5, drop=0.5, fine=0.8), few()
    first = run(settings, whole, tmp_path / "whole")["joint"]
    victim = few()
    unit = FEW_UNITS[number]
    with pytest.raises(KeyboardInterrupt):
        run(settings, victim, tmp_path / "killed", lambda _, at: at == unit)
    torch.manual_seed(1234)  # a new process begins anywhere
    again = few()
    losses = run(settings, again, tmp_path / "killed")["joint"]
    assert list(losses) == FEW_UNITS[number:] and losses == {unit: first[unit] for unit in losses}
    assert_same(whole, again)


def test_the_seed_matters(tmp_path: Path) -> None:
    first, other = few(), few()
    for seed, attached in enumerate((first, other)):
        run(brecq(seed=seed), attached, tmp_path / str(seed))
    assert any(not torch.equal(v, state(other)[k]) for k, v in state(first).items())


def test_baked_weights_are_away_only_while_their_unit_learns_roundings(tmp_path: Path) -> None:
    attached, checked = small(), [0]

    def check(name: str, unit: str) -> bool:
        for path, layer in attached.layers().items():
            inside = f"{path}.".startswith(f"{unit}.")
            assert (layer.baked is None) == (inside and name == "weights")
        checked[0] += 1
        return False

    run(brecq(weights=2, scales=1), attached, tmp_path, check)
    assert checked == [SMALL_UNITS * (2 + 1)]
    for layer in attached.layers().values():
        assert layer.baked is not None and torch.equal(layer.baked, layer.weight_quantizer(layer.weight))


def test_a_unit_left_in_full_precision_is_passed_over(tmp_path: Path) -> None:
    attached = small(Rule("edge.*", bits=32))
    losses = run(brecq(), attached, tmp_path)
    rest = [unit for unit in attached.units() if not unit.startswith("conv_")]
    assert [list(units) for units in losses.values()] == [rest] * 2 and len(rest) == SMALL_UNITS - 2


def test_a_pass_without_iterations_is_left_out(tmp_path: Path) -> None:
    attached, other = few(), few()
    losses = run(brecq(scales=0), attached, tmp_path / "0")
    weights = Reconstruction({"weights": Pass(4, rounding=AdaRound(lr=0.05))}, batch_size=4)
    assert losses == {**run(weights, other, tmp_path / "1"), "scales": {}}
    assert_same(attached, other)


def test_layers_learn_one_by_one_in_the_order_in_which_they_run(tmp_path: Path) -> None:
    attached = small()
    losses = run(brecq(weights=1, scales=0, units="layers"), attached, tmp_path)["weights"]
    assert len(losses) == 25 and set(losses) == set(attached.layers())
    block = "up_blocks.0.resnets.0"
    order = [name.removeprefix(f"{block}.") for name in losses if name.startswith(block)]
    assert order == ["conv1", "time_emb_proj", "conv2", "conv_shortcut"]


def test_recorded_targets_end_in_the_same_bytes(tmp_path: Path) -> None:
    settings = joint(mix=0.5, fine=0.8)
    full = adapter(**SMALL)
    modules = {name: full.model.get_submodule(name) for name in module_names(full, "blocks")}
    record(ModelDenoiser(full), modules, rows, NUM, tmp_path / "targets", inputs=True)
    attached, other = few(), few()
    losses = run(settings, attached, tmp_path / "0", targets=tmp_path / "targets")
    assert losses == run(settings, other, tmp_path / "1")
    assert_same(attached, other)
    assert not (tmp_path / "0" / "tmp-capture" / "full").exists(), "nothing is computed twice"


def test_what_was_captured_for_a_unit_is_gone_with_the_next(tmp_path: Path) -> None:
    checked = 0

    def check(_: str, unit: str) -> bool:
        nonlocal checked
        files = {file.name.partition("--")[0] for file in (tmp_path / "tmp-capture").rglob("*.safetensors")}
        held = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if is_link(name)]
        assert files == {unit} and not any(str(tmp_path) in path and "deleted" in path for path in held)
        checked += 1
        return False

    run(joint(iterations=1, mix=0.5), few(), tmp_path, check)
    assert checked == len(FEW_UNITS)


def is_link(name: str) -> bool:
    return os.path.islink(f"/proc/self/fd/{name}")


def test_memory_of_the_unit_before_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Captured]] = []
    original = capture_

    def capture(*args: Any, **options: Any) -> Captured:
        assert [ref() for ref in alive if ref() is not None] == []
        captured = original(*args, **options)
        alive.append(weakref.ref(captured))
        return captured

    monkeypatch.setattr("dmq_cli.recon.units.capture", capture)
    run(brecq(weights=1, scales=2), few(), tmp_path)
    assert len(alive) == 2 * len(FEW_UNITS)


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    attached = small()
    sample, timestep = data(NUM)
    sample[3] = torch.nan
    with pytest.raises(
        NumericsError, match="Reconstructing conv_in ended in a loss of nan; lower the learning"
    ) as caught:
        brecq(batch_size=NUM).run(attached, lambda: iter([(sample, timestep)]), NUM, tmp_path, lambda *_, **__: None)
    one_sentence(caught.value)


def test_no_reconstruction_changes_nothing(tmp_path: Path) -> None:
    attached, other = small(), small()
    NoReconstruction().run(attached, rows, NUM, tmp_path, lambda *_, **__: None)
    assert_same(attached, other)
    assert list(tmp_path.iterdir()) == []


def test_a_round_of_refinement_is_the_same_with_other_iterations() -> None:
    settings = brecq(weights=7, scales=0, refine_rounds=2, refine_iterations=5, num_samples=9, seed=3)
    again, other = settings.refinements()
    assert again == other and not again.refinements()
    assert {name: recon_pass.iterations for name, recon_pass in again.passes.items()} == {"weights": 5, "scales": 0}
    assert again.refine_rounds is None and again.refine_iterations is None
    assert again == brecq(weights=5, scales=0, num_samples=9, seed=3)
    assert settings.passes["weights"].iterations == 7


def test_a_round_of_refinement_learns_everything_again(tmp_path: Path) -> None:
    settings = brecq(weights=2, scales=1, refine_rounds=1, refine_iterations=3)
    attached, direct = few(), few()
    run(settings, attached, tmp_path / "first")
    (tmp_path / "again").mkdir()
    reports: list[tuple[str, int]] = []
    (again,) = settings.refinements()

    def report(unit: str, iteration: int, iterations: int, loss: float, **_: Any) -> None:
        reports.append((unit, iterations))

    again.run(attached, rows, NUM, tmp_path / "again", report)
    assert reports == [(unit, 3) for unit in 2 * FEW_UNITS for _ in range(3)]
    run(brecq(weights=3, scales=4), direct, tmp_path / "direct")
    weights = [{k: v for k, v in state(model).items() if "weight" in k} for model in (attached, direct)]
    assert len(weights[0]) == 3 * (2 + 4 + 8 + 2)  # scale, zero point, decision; two shortcuts are split
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items()), "rounding begins anew"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"refine_rounds": 0, "refine_iterations": 5},
            r"recon\.refine_rounds=0 refines nothing; use at least 1, or recon=",
        ),
        ({"refine_rounds": 2, "refine_iterations": 0}, r"recon\.refine_iterations=0 refines nothing"),
        ({"refine_rounds": 2}, "belong together; give both"),
        ({"refine_iterations": 2}, "belong together; give both"),
        ({"num_samples": 0}, r"recon\.num_samples=0 reconstructs from nothing; use at least 1"),
        ({"batch_size": 0}, r"recon\.batch_size=0 reconstructs from nothing"),
    ],
)
def test_settings_of_a_reconstruction_that_cannot_be(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        brecq(**fields)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    "fields",
    [{"iterations": -1}, {"p": 0.0}, {"mix": -0.1}, {"mix": 1.1}, {"drop": -0.1}, {"drop": 1.1}, {"fine": -1.0}],
)
def test_settings_of_a_pass_that_cannot_be(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(ConfigError, match=f"A pass was asked for with .*{name}={value}") as caught:
        Pass(**{"iterations": 1, "rounding": AdaRound(), **fields})
    one_sentence(caught.value)


def test_a_pass_that_learns_nothing() -> None:
    with pytest.raises(ConfigError, match="neither rounding nor scales to learn; give it one") as caught:
        Pass(5)
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("one", "slots", "activations", "full"),
    [
        (Pass(1, rounding=SignSteps()), ("weight",), False, False),
        (Pass(1, scales=Scales()), ACTIVATIONS, True, False),
        (Pass(1, AdaRound(), Scales(), drop=0.5), ("weight", *ACTIVATIONS), True, False),
        (Pass(1, AdaRound(), mix=0.5), ("weight",), False, True),
        (Pass(1, AdaRound(), fine=0.8), ("weight",), False, True),
    ],
)
def test_what_a_pass_asks_for(one: Pass, slots: tuple[str, ...], activations: bool, full: bool) -> None:
    assert (one.slots, one.activations, one.reads_full) == (slots, activations, full)
    config = Reconstruction({"x": one}, num_samples=5, units="layers")
    assert config.targets == {"units": "layers", "num_samples": 5, "inputs": full}
    assert config.learns_rounding == ("weight" in slots)
