from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dmq_cli.errors import ConfigError, NumericsError
from dmq_cli.models import ROLES, ModelDenoiser, fits
from dmq_cli.quant import FullPrecision, MlpScale
from dmq_cli.recon import AdaRound, Pass, Quest, Reconstruction, curves
from dmq_cli.stages import build
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, extra_state, load_state, quantizing, state
from tests.recon.runs import ACTIVATIONS, FEW_UNITS, NUM, PER_STEP, assert_same, brecq, changed, few, rows, run, small
from tests.test_conf import composed
from tests.tiny import SMALL, adapter, data, network, one_sentence

TEMPORAL, ATTENTION = 2 + 5, 4
TUNED = TEMPORAL + ATTENTION
NOTHING = Reconstruction({"weights": Pass(0, rounding=AdaRound())})
BASE = Reconstruction({"weights": Pass(1, rounding=AdaRound(lr=0.05))}, batch_size=4)
FULL = (Rule("*.input|attn.q|attn.k|attn.v|attn.prob", bits=32),)  # activations


def quest(iterations: int = 2, base: Reconstruction = NOTHING, **fields: Any) -> Quest:
    return Quest(base, iterations, **{"batch_size": 4, "weight_lr": 1e-4, "scale_lr": 1e-3, **fields})


def output(attached: Attached) -> Tensor:
    with torch.no_grad():
        return QuantDenoiser(attached)(*data(NUM))


def full(attached: Attached) -> Tensor:
    with torch.no_grad(), quantizing(attached, weights=False, activations=False):
        return ModelDenoiser(attached.adapter)(*data(NUM))


def test_only_temporal_and_attention_weights_are_tuned_and_all_activation_scales(tmp_path: Path) -> None:
    attached, stages, states = small(), list[str](), [state(small())]

    def check(_: str, stage: str) -> bool:
        stages.append(stage)
        if len(stages) == 2:
            states.append(state(attached))
        return False

    losses = run(quest(), attached, tmp_path, check)
    assert losses["weights"] == {} and stages == ["temporal"] * 2 + ["attention"] * 2
    states.append(state(attached))
    tuned = {key.removesuffix(".tuned") for key in extra_state(attached)}
    roles = {layer.name: layer.role for layer in attached.adapter.layers()}
    assert {roles[name].partition("_")[0] for name in tuned} == {"time.embed", "resnet.time", "attn.to"}
    assert len(tuned) == TUNED
    first, second = (changed(a, b) for a, b in itertools.pairwise(states))
    temporal = {name for name in tuned if "time_emb" in name}
    assert first == {f"{name}.tuned" for name in temporal} | {f"{name}.input" for name in temporal}
    activations = {name.partition("_quantizer")[0] for name in attached.quantizers(*ACTIVATIONS)}
    assert second == {f"{name}.tuned" for name in tuned - temporal} | (activations - first)
    assert len(temporal) == TEMPORAL and not any(p.requires_grad for p in attached.model.parameters())
    assert not any(layer.latent_weight().requires_grad for layer in attached.layers().values())


@pytest.mark.parametrize("base", [NOTHING, BASE])
def test_it_starts_at_exactly_what_the_reconstruction_gave(base: Reconstruction, tmp_path: Path) -> None:
    """Steps too small to move a weight or a scale: every bit of the output is the base's."""
    still, other = small(), small()
    run(quest(1, base, weight_lr=1e-300, scale_lr=1e-300), still, tmp_path / "still")
    run(base, other, tmp_path / "base")
    assert torch.equal(output(still), output(other))
    assert len(extra_state(still)) == TUNED and not extra_state(other)


def test_losses_fall(tmp_path: Path) -> None:
    attached = small()
    before = float((output(attached) - full(attached)).square().mean())
    losses = run(quest(10, weight_lr=5e-4, batch_size=NUM), attached, tmp_path)["quest"]
    assert list(losses) == ["temporal", "attention"]
    ratios = [sum(values[-3:]) / sum(values[:3]) for values in losses.values()]
    assert ratios[0] < 0.97 and ratios[1] < 0.995
    points = {unit: [[number, loss] for number, loss in enumerate(values, 1)] for unit, values in losses.items()}
    assert curves(tmp_path)["tuning"] == points
    assert float((output(attached) - full(attached)).square().mean()) < 0.97 * before


def test_steps_far_smaller_than_a_code_already_turn_weights(tmp_path: Path) -> None:
    """As where floor and a learned decision are kept: a weight that is near the next code gets there."""
    attached, base = small(), small()
    run(BASE, base, tmp_path / "base")
    run(quest(2, BASE, weight_lr=1e-3, scale_lr=1e-300), attached, tmp_path / "tuned")
    turned, count = 0, 0
    for (name, quantizer, weight, _), (_, other, before, _) in zip(
        attached.weight_pieces(), base.weight_pieces(), strict=True
    ):
        if f"{name.partition('.weight_quantizer')[0]}.tuned" in extra_state(attached):
            turned += int((quantizer.codes(weight) != other.codes(before)).sum())
            count += weight.numel()
            assert float(quantizer.scale(weight)[0].min()) > 14 * 2e-3
    assert 0 < turned < 0.1 * count


def test_the_first_loss_by_hand(tmp_path: Path) -> None:
    """The network's error, and in the first stage those of the layers that are tuned."""
    attached, reference = small(), network(**SMALL)
    names = [layer.name for layer in attached.adapter.layers() if layer.role.startswith(("time.", "resnet.time_proj"))]
    outputs: dict[Any, Tensor] = {}
    for model in (attached.model, reference):
        for name in names:
            model.get_submodule(name).register_forward_hook(lambda _m, _x, y, k=(model, name): outputs.update({k: y}))
    expected = (output(attached) - ModelDenoiser(adapter(**SMALL))(*data(NUM))).square().mean()
    reference(*data(NUM))
    local = [(outputs[attached.model, name] - outputs[reference, name]).square().mean() for name in names]
    assert len(local) == TEMPORAL and min(map(float, local)) > 0
    losses = run(quest(1, weight_lr=1e-300, scale_lr=1e-300, batch_size=NUM), attached, tmp_path)["quest"]
    assert losses["temporal"] == [pytest.approx(float(expected) + sum(map(float, local)), rel=1e-9)]
    assert losses["attention"] == [pytest.approx(float(expected), rel=1e-9)]


def test_the_losses_of_the_released_scripts_by_hand(tmp_path: Path) -> None:
    """The network's error once for every tuned layer; with local=both the layers' own in the second stage, too."""
    still: dict[str, Any] = {"weight_lr": 1e-300, "scale_lr": 1e-300, "batch_size": NUM}
    scripts: list[dict[str, Any]] = [{}, {"local": "both"}, {"counted": "per_layer"}]
    scripts.append({"local": "both", "counted": "per_layer"})
    plain, local, counted, both = (
        run(quest(1, **still, **fields), small(), tmp_path / str(number))["quest"]
        for number, fields in enumerate(scripts)
    )
    network_error, attention_own = plain["attention"][0], local["attention"][0] - plain["attention"][0]
    temporal_own = plain["temporal"][0] - network_error
    assert attention_own > 0 and local["temporal"] == plain["temporal"]
    assert counted["temporal"] == [pytest.approx(TEMPORAL * network_error + temporal_own, rel=1e-9)]
    assert counted["attention"] == [pytest.approx(ATTENTION * network_error, rel=1e-9)]
    assert both["attention"] == [pytest.approx(ATTENTION * network_error + attention_own, rel=1e-9)]


def test_rates_of_scales_are_absolute_and_of_each_stage(tmp_path: Path) -> None:
    """Adam's first step is as long as its rate."""
    attached = small()
    before = state(attached)
    run(quest(1, relative=False, scale_lr=1e-7, temporal_scale_lr=3e-7, weight_lr=1e-300), attached, tmp_path)
    moved = {
        name: float((state(attached)[key] - value).abs().max())
        for key, value in before.items()
        if (name := key.partition(".input_quantizer")[0]) != key and key.endswith(".scale")
    }
    rates = {name: 3e-7 if "time_emb" in name else 1e-7 for name in moved}
    assert len(moved) > 20 and moved == pytest.approx(rates, rel=1e-2)


def test_layers_that_are_left_out_do_not_learn(tmp_path: Path) -> None:
    attached = small()
    run(quest(1, temporal="resnet.time_proj", attention_but="attn.to_out"), attached, tmp_path)
    tuned = {key.removesuffix(".tuned") for key in extra_state(attached)}
    assert len(tuned) == TUNED - 2 - 1 and not [name for name in tuned if "to_out" in name or "linear_" in name]


@pytest.mark.parametrize(
    ("family", "roles"),
    [
        ("sd", {"ff.in", "ff.out"}),
        ("imagenet", {"ff.in", "ff.out", "attn.to_q", "attn.cross.to_q", "attn.to_k", "attn.to_v"}),
        ("lsun", {"attn.to_q", "attn.to_k", "attn.to_v", "attn.cross.to_q", "attn.cross.to_k", "attn.cross.to_v"}),
    ],
)
def test_the_released_scripts_tune_these_layers(family: str, roles: set[str]) -> None:
    """LSUN's networks have no cross-attention."""
    recon = build.make(composed(f"recon=quest_{family}")["recon"])
    assert isinstance(recon, Quest) and (recon.counted, recon.relative) == ("per_layer", False)
    assert (recon.temporal_scale_lr, recon.scale_lr, recon.weight_lr) == (1e-5, 1e-4, 1e-5)
    assert {role for role in ROLES if fits(role, recon.temporal)} == {"resnet.time_proj"}
    spared = {role for role in ROLES if fits(role, recon.attention_but)}
    assert {role for role in ROLES if fits(role, recon.attention)} - spared == roles
    assert recon.local == ("both" if family == "sd" else "temporal")


def test_the_full_precision_twin_stays(tmp_path: Path) -> None:
    attached = small()
    before = full(attached)
    quantized = output(attached)
    run(quest(weight_lr=1e-2), attached, tmp_path)
    assert torch.equal(full(attached), before) and not torch.equal(output(attached), quantized)
    assert torch.equal(before, ModelDenoiser(adapter(**SMALL))(*data(NUM)))


def test_its_state_can_be_stored(tmp_path: Path) -> None:
    attached, fresh = small(), small(fit=False)
    run(quest(base=BASE), attached, tmp_path)
    load_state(fresh, state(attached))
    assert_same(attached, fresh)
    assert torch.equal(output(attached), output(fresh)) and len(extra_state(fresh)) == TUNED


@pytest.mark.parametrize("stage", ["temporal", "attention"])
def test_a_run_that_was_killed_ends_in_the_same_bytes(stage: str, tmp_path: Path) -> None:
    settings, whole = quest(2, base=BASE), small(PER_STEP)
    run(settings, whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(settings, small(PER_STEP), tmp_path / "killed", lambda name, at: (name, at) == ("quest", stage))
    again = small(PER_STEP)
    losses = run(settings, again, tmp_path / "killed")
    assert losses["weights"] == {} and list(losses["quest"]) == ["temporal", "attention"][stage == "attention" :]
    assert_same(whole, again)
    assert torch.equal(output(whole), output(again))


def test_networks_of_scales_learn_and_are_not_cut_off_at_zero(tmp_path: Path) -> None:
    attached = small(Rule("*.input", scale=MlpScale(dim=8, width=6)))
    before = state(attached)
    run(quest(3), attached, tmp_path)
    after = state(attached)
    nets = [key for key in before if ".scale.net." in key]
    assert len(nets) == 8 * len(attached.quantizers("input")) and nets
    assert not [key for key in nets if torch.equal(before[key], after[key])]
    assert all((after[key] < 0).any() for key in nets if key.endswith("0.weight"))


def test_a_stage_without_anything_to_learn_is_passed_over(tmp_path: Path) -> None:
    attached = small(*FULL, Rule("attn.to_*.weight", bits=32))
    losses = run(quest(), attached, tmp_path)
    assert list(losses["quest"]) == ["temporal"] and len(extra_state(attached)) == TEMPORAL
    nothing = small(*FULL, Rule("attn.to_*.weight|time.*.weight|resnet.time_proj.weight", bits=32))
    assert run(quest(), nothing, tmp_path / "nothing") == {"weights": {}} and not extra_state(nothing)
    assert all(
        (layer.baked is None) == isinstance(layer.weight_quantizer, FullPrecision)
        for layer in nothing.layers().values()
    )


def test_what_it_asks_for_is_what_its_base_asks_for() -> None:
    base = brecq(num_samples=7, units="layers")
    assert quest(base=base).targets == base.targets == {"units": "layers", "num_samples": 7, "inputs": False}
    assert quest(base=base).num_samples == 7 and not quest(base=base).refinements()
    assert quest(base=base).learns_rounding and not quest(base=NOTHING).learns_rounding


def test_the_base_is_the_reconstruction(tmp_path: Path) -> None:
    losses = run(quest(3, base=BASE), few(), tmp_path / "0")
    assert losses["weights"] == run(BASE, few(), tmp_path / "1")["weights"] and list(losses["weights"]) == FEW_UNITS


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    sample, timestep = data(NUM)
    sample[3] = torch.nan
    settings = quest(batch_size=NUM)
    with pytest.raises(
        NumericsError, match=r"Fine-tuning \(temporal\) ended in a loss of nan; lower recon.weight_lr"
    ) as caught:
        settings.run(small(), lambda: iter([(sample, timestep)]), NUM, tmp_path, lambda *_, **__: None)
    one_sentence(caught.value)
    assert next(rows())[0].isfinite().all()


@pytest.mark.parametrize(
    "fields", [{"iterations": 0}, {"batch_size": 0}, {"weight_lr": 0.0}, {"scale_lr": -1.0}]
)  # fmt: skip
def test_settings_that_cannot_be(fields: dict[str, Any]) -> None:
    ((name, value),) = fields.items()
    with pytest.raises(
        ConfigError, match=f"Quest was asked for .*{name}={value}.*; all of them are positive"
    ) as caught:
        quest(**fields)
    one_sentence(caught.value)


def test_a_base_with_refinement_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"recon\.base\.refine_rounds is not known to QuEST; leave it out, or"
    ) as caught:
        quest(base=brecq(refine_rounds=1, refine_iterations=1))
    one_sentence(caught.value)
