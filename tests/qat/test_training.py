"""A training as a whole: it can stop and go on, it is plain training without quantizers, and what it learned is what samples."""

from __future__ import annotations

import copy
import errno
import json
import math
import os
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dmq_cli.errors import ArtifactCorruptError, ConfigError, NumericsError
from dmq_cli.models import ModelDenoiser
from dmq_cli.qat import Latent, Lsq, Nipq, Pact, QaLora, Qat, Settings
from dmq_cli.qat.loop import Candidate
from dmq_cli.qat.problems import Distillation
from dmq_cli.quant import DynamicScale, IntervalScale, MlpScale, PerStepScale
from dmq_cli.recon import curves
from dmq_cli.recon.calls import joined
from dmq_cli.store import tensors
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, bake, freeze, load_state, quantizing, state
from tests.qat.runs import NUM, run, trained_network, training
from tests.recon.runs import assert_same
from tests.tiny import SMALL, batches, data, network, one_sentence

ACTIVATIONS = "*.input|attn.q|attn.k|attn.v|attn.prob"
OFF = Rule("*", bits=32)
KINDS: dict[str, tuple[list[Rule], dict[str, Any]]] = {
    "lsq": ([], {}),
    "pact": ([Rule(ACTIVATIONS, range="low_fixed")], {"gradients": Pact()}),
    "nipq": ([], {"gradients": Nipq(rounded=0.5)}),
    "tdq": ([Rule(ACTIVATIONS, scale=MlpScale(8, 8, 2), range="low_learned")], {}),
    "steps_n": ([Rule(ACTIVATIONS, scale=IntervalScale(4), range="low_learned")], {}),
    "dynamic": ([Rule(ACTIVATIONS, scale=DynamicScale())], {}),
    "double_update": ([], {"weights": QaLora(rank=2, double_update=True, scale_lr=1e-4), "relative": False}),
    "efficientdm": ([Rule(ACTIVATIONS, scale=PerStepScale())], {"weights": QaLora(rank=2), "relative": False}),
}


def output(attached: Attached) -> Tensor:
    with torch.no_grad():
        return QuantDenoiser(attached)(*data(NUM))


def error(attached: Attached) -> float:
    with torch.no_grad(), quantizing(attached, weights=False, activations=False):
        full = ModelDenoiser(attached.adapter)(*data(NUM))
    return float((output(attached) - full).square().mean())


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_learns_and_what_is_stored_is_what_was_learned(kind: str, tmp_path: Path) -> None:
    rules, fields = KINDS[kind]
    attached, twin = (trained_network(*rules, act=4) for _ in range(2))
    before = output(attached)
    losses = run(training(12, **fields), attached, tmp_path)
    assert len(losses) == 12 and all(map(math.isfinite, losses))
    assert not torch.equal(output(attached), before)
    assert not any(p.requires_grad for p in attached.model.parameters())
    load_state(twin, state(attached))
    for model in (attached, twin):
        freeze(model)
        bake(model)
    torch.testing.assert_close(output(attached), output(twin), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["lsq", "tdq"])
def test_training_brings_the_network_nearer(kind: str, tmp_path: Path) -> None:
    rules, fields = KINDS[kind]
    attached = trained_network(*rules, act=4)
    before = error(attached)
    run(training(30, lr=3e-3, scale_lr=1e-2, **fields), attached, tmp_path)
    assert error(attached) < 0.7 * before


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_training_ends_in_the_same_bytes(kind: str, tmp_path: Path) -> None:
    rules, fields = KINDS[kind]
    undisturbed, killed = (trained_network(*rules, act=4) for _ in range(2))
    method = training(6, **fields)
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    run(method, undisturbed, tmp_path / "one")
    for last in (1, 3, 5):  # before the first checkpoint, and after each of two
        with pytest.raises(KeyboardInterrupt):
            run(method, trained_network(*rules, act=4), tmp_path / "other", lambda step, last=last: step == last)  # type: ignore[misc]
    losses = run(method, killed, tmp_path / "other")
    assert len(losses) == 2
    assert_same(undisturbed, killed)
    assert curves(tmp_path / "one") == curves(tmp_path / "other")
    assert len(list((tmp_path / "other").glob("tmp-training-*"))) == 2


def test_without_quantizers_it_is_plain_training(tmp_path: Path) -> None:
    attached = trained_network(OFF)
    method = training(5, ema=0.0, candidates=1, lr=1e-3)
    run(method, attached, tmp_path)
    model, call = network(**SMALL).requires_grad_(True), joined(lambda: batches(NUM, 4))
    problem = Distillation(trained_network(OFF), call, 4)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    for step in range(5):
        generator = torch.Generator().manual_seed(step)
        batch = problem.batch(4, generator)
        optimizer.param_groups[0]["lr"] = 1e-3 * 0.5 * (1 + math.cos(math.pi * step / 5))
        optimizer.zero_grad()
        nn.functional.mse_loss(model(batch.sample, batch.timestep).sample, batch.target).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    expected = dict(model.named_parameters())
    learned = attached.trained.tensors()
    assert len(learned) == len(expected) >= 40
    for name, value in learned.items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("kind", ["lsq", "tdq"])
def test_what_has_a_rate_of_zero_does_not_learn(kind: str, tmp_path: Path) -> None:
    """With rates of zero for weights and their scales, ranges of activations learn alone, on the network's own estimate."""
    rules, fields = KINDS[kind]
    attached = trained_network(*rules, act=4)
    with quantizing(attached, weights=True, activations=False):
        weights_alone = output(attached)
    before, error_before = output(attached), error(attached)
    run(training(12, lr=0.0, weight_scale_lr=0.0, scale_lr=1e-2, **fields), attached, tmp_path)
    with quantizing(attached, weights=True, activations=False):
        assert torch.equal(output(attached), weights_alone)
    assert not torch.equal(output(attached), before) and error(attached) < error_before


def test_steps_are_as_long_however_small_gradients_are(tmp_path: Path) -> None:
    """LSQ's factor and Min-SNR make gradients small; Adam is indifferent to that where nothing is added to their root."""
    moves = {}
    for eps in (1e-15, 1e-3):
        attached = trained_network(*KINDS["tdq"][0], act=4)
        before = {name: value.clone() for name, value in state(attached).items()}
        (tmp_path / str(eps)).mkdir()
        run(training(1, adam_eps=eps, decay="constant", ema=0.0, candidates=1), attached, tmp_path / str(eps))
        after = state(attached)
        steps = torch.cat(
            [(after[name] - value).abs().flatten() for name, value in before.items() if ".scale.net." in name]
        )
        moves[eps] = float(steps[steps > 0].max())
    assert moves[1e-15] == pytest.approx(1e-3, rel=1e-3) and moves[1e-3] < 1e-4


def test_cut_batches_give_the_same_result(tmp_path: Path) -> None:
    states = []
    for parts in (1, 3):
        attached = trained_network(act=4)
        (tmp_path / str(parts)).mkdir()
        run(training(3, accumulate=parts), attached, tmp_path / str(parts))
        states.append(state(attached))
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-7, atol=1e-9, msg=name)


def test_a_planted_scale_is_found(tmp_path: Path) -> None:
    """Weights are whole multiples of 0.1; a scale that starts at 0.106 goes there, where nothing is lost."""
    only = [Rule("*", bits=32), Rule("edge.out.weight", bits=4)]
    attached = trained_network(*only)
    layer = attached.model.get_submodule("conv_out")
    (quantizer,) = attached.quantizers("weight").values()
    with torch.no_grad():
        layer.weight.copy_((layer.weight / 0.1).round().clamp(-7, 7) * 0.1)  # type: ignore[union-attr, operator]
        layer.weight.view(-1)[:15] = 0.1 * torch.arange(-7, 8)  # type: ignore[operator]
        quantizer.scale.scale.fill_(0.106)  # type: ignore[operator]
    frozen = training(60, lr=1e-12, weight_scale_lr=4e-3, batch_size=8, ema=0.0, choose="last")
    run(frozen, attached, tmp_path)
    assert float(quantizer.scale.scale) == pytest.approx(0.1, rel=1e-2)  # type: ignore[arg-type]


def test_the_full_precision_twin_stays_what_it_was(tmp_path: Path) -> None:
    attached = trained_network(act=4)
    sample, timestep = data(NUM)
    before = network(**SMALL)(sample, timestep).sample
    run(training(4), attached, tmp_path)
    with torch.no_grad(), quantizing(attached, weights=False, activations=False):
        torch.testing.assert_close(ModelDenoiser(attached.adapter)(sample, timestep), before, rtol=0, atol=1e-12)
        with quantizing(attached, weights=True, activations=True):
            inside = QuantDenoiser(attached)(sample, timestep)
    assert torch.equal(inside, output(attached)) and attached.trained.shown
    name, value = next(iter(attached.trained.tensors().items()))
    assert not torch.equal(value, dict(network(**SMALL).named_parameters())[name])


def test_low_rank_updates_are_merged_without_a_trace(tmp_path: Path) -> None:
    rules, _ = KINDS["efficientdm"]
    attached = trained_network(*rules)
    weights = QaLora(rank=2).start(attached, 0.0)
    with torch.no_grad():
        for parameter in weights.parameters():
            parameter.normal_(std=0.05, generator=torch.Generator().manual_seed(1))
    weights.place()
    live = output(attached)
    weights.finish()
    torch.testing.assert_close(output(attached), live, rtol=0, atol=1e-12)
    assert not any(name.endswith(("down", "up")) for name in state(attached))


def test_a_low_rank_update_starts_at_nothing() -> None:
    attached = trained_network()
    before = output(attached)
    weights = QaLora(rank=2).start(attached, 0.0)
    weights.place()
    torch.testing.assert_close(output(attached), before, rtol=0, atol=1e-9)
    rates = [rate for _, rate in weights.rates()]
    assert len(set(rates)) > 10, "every layer has its own"


@pytest.mark.parametrize("choose", ["loss", "distance", "last"])
def test_the_best_candidate_is_kept(choose: Any, tmp_path: Path) -> None:
    distances = iter([3.0, 1.0, 2.0])
    attached = trained_network(act=4)
    run(training(6, candidates=3, choose=choose), attached, tmp_path, distance=lambda denoiser: next(distances))
    stored = sorted(tmp_path.glob("tmp-training-*"))[-1]
    from safetensors import safe_open

    with safe_open(stored, "pt") as file:
        words = json.loads(file.metadata()["training"])
        best, last = ([file.get_tensor(f"{name}.{i}") for i in range(3)] for name in ("best", "average"))
    settings = Settings(6, choose=choose)
    candidates = [Candidate(**candidate) for candidate in words["candidates"]]
    assert [candidate.step for candidate in candidates] == [2, 4, 6]
    step = min(candidates, key=settings.merit).step
    assert step == (
        4 if choose == "distance" else 6 if choose == "last" else min(candidates, key=lambda c: c.loss).step
    )
    assert all(map(torch.equal, best, last)) == (step == 6)
    assert set(curves(tmp_path)) == {"training", "held out", "distance"}


def test_a_loss_that_is_not_finite_names_the_step_and_the_layer(tmp_path: Path) -> None:
    attached = trained_network(act=4)

    def spoil(step: int) -> bool:
        if step == 3:
            attached.model.get_submodule("mid_block.resnets.0.conv1").bias.data.fill_(torch.nan)  # type: ignore[operator]
        return False

    with pytest.raises(NumericsError) as caught:
        run(training(6), attached, tmp_path, spoil)
    sentence = one_sentence(caught.value)
    assert "step 4" in sentence and "mid_block.resnets.0.conv1 was the first" in sentence
    assert [file.name for file in tmp_path.glob("tmp-training-*")] == ["tmp-training-000000002.safetensors"]


def test_gradients_that_are_not_finite_are_never_applied(tmp_path: Path) -> None:
    """The loss is finite, so that only the gradients tell; the step after which a checkpoint would be written is not taken."""
    attached = trained_network(act=4)

    def spoil(step: int) -> bool:
        if step == 3:
            bias = attached.model.get_submodule("mid_block.resnets.0.conv1").bias
            cast(nn.Parameter, bias).register_hook(lambda gradient: gradient * math.inf)  # type: ignore[no-untyped-call]
        return False

    with pytest.raises(NumericsError) as caught:
        run(training(6, save_every=2), attached, tmp_path, spoil)
    sentence = one_sentence(caught.value)
    assert "step 4" in sentence and "gradients of norm" in sentence and "no layer here was one" in sentence
    (file,) = tmp_path.glob("tmp-training-*")
    kept = tensors.load_tensors(file)
    assert file.name == "tmp-training-000000002.safetensors" and len(kept) > 100
    assert all(bool(value.isfinite().all()) for value in kept.values())


def test_a_full_disk_in_a_checkpoint_keeps_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save, saved = save_file, list[Path]()

    def filling(content: Any, file: Path, **more: Any) -> None:
        saved.append(file)
        if len(saved) > 1:
            file.write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file))
        save(content, file, **more)

    monkeypatch.setattr(tensors, "save_file", filling)
    with pytest.raises(OSError, match="No space left"):  # the store makes a sentence of it
        run(training(6), trained_network(act=4), tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["tmp-training-000000002.safetensors"]
    monkeypatch.undo()
    assert len(run(training(6), trained_network(act=4), tmp_path)) == 4, "it goes on from there"


@pytest.mark.parametrize("fault", ["weights", "settings", "cut"])
def test_a_checkpoint_of_another_training_is_refused(fault: str, tmp_path: Path) -> None:
    file = tmp_path / "tmp-training-000000002.safetensors"
    run(training(2), trained_network(act=4), tmp_path)
    if fault == "cut":
        file.write_bytes(file.read_bytes()[:5000])
    changes: dict[str, dict[str, Any]] = {"weights": {"weights": QaLora(rank=2)}, "settings": {"lr": 2e-3}, "cut": {}}
    with pytest.raises(ArtifactCorruptError) as caught:
        run(training(2, **changes[fault]), trained_network(act=4), tmp_path)
    assert "delete it" in one_sentence(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"iterations": 0}, {"batch_size": 0}, {"accumulate": 0}, {"candidates": 0}, {"save_every": 0}, {"lr": -1.0}, {"scale_lr": -1.0},
        {"clip": 0.0}, {"adam_eps": 0.0}, {"lr": 0.0, "scale_lr": 0.0, "weight_scale_lr": 0.0}, {"weight_decay": -1.0}, {"warmup": -1}, {"ema": 1.0},
    ],
)  # fmt: skip
def test_impossible_settings_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**fields)
    assert next(iter(fields)) in one_sentence(caught.value)


def test_a_training_on_noise_needs_data() -> None:
    with pytest.raises(ConfigError) as caught:
        Qat(Settings(), Latent(), Lsq())
    assert "data=" in one_sentence(caught.value)
    with pytest.raises(ConfigError, match="loss=fit"):
        Qat(Settings(), Latent(), Lsq(), loss="fit")  # type: ignore[arg-type]


def test_the_schedule_warms_up_and_falls() -> None:
    cosine, linear = Settings(100, warmup=10), Settings(100, decay="linear")
    assert cosine.schedule(0) == pytest.approx(0.1) and cosine.schedule(50) == pytest.approx(0.5)
    assert linear.schedule(25) == pytest.approx(0.75) and Settings(100, decay="constant").schedule(99) == 1.0
    assert Settings(10, candidates=3).candidate_steps == {3, 7, 10} and Settings(2, candidates=5).candidate_steps == {
        1,
        2,
    }


def test_copies_of_a_trained_network_are_trained_too(tmp_path: Path) -> None:
    attached = trained_network(act=4)
    run(training(2), attached, tmp_path)
    assert torch.equal(output(copy.deepcopy(attached)), output(attached))


def test_scales_of_weights_move_twice_where_that_is_asked_for(tmp_path: Path) -> None:
    """In the first step weights lie on their grids, where rounding gives a scale no gradient: what moves it is the second update."""
    moved = []
    for double in (False, True):
        attached = trained_network(Rule("*.weight", bits=4))
        quantizers = attached.quantizers("weight").values()
        before = torch.stack([quantizer.scale.scale.detach().flatten() for quantizer in quantizers])  # type: ignore[operator]
        (tmp_path / str(double)).mkdir()
        weights = QaLora(rank=2, double_update=double, scale_lr=1e-4)
        method = training(1, weights=weights, relative=False, weight_scale_lr=3e-4, ema=0.0, candidates=1)
        run(method, attached, tmp_path / str(double))
        after = torch.stack([quantizer.scale.scale.detach().flatten() for quantizer in quantizers])  # type: ignore[operator]
        moved.append((after - before).flatten())
    once, twice = (change.abs() for change in moved)
    assert len(once) >= 25 and float(once.max()) < 1e-9
    assert ((twice - 1e-4).abs() < 1e-6).double().mean() > 0.9, "a step of Adam is as long as its rate"


def test_products_may_be_of_half_precision_and_parameters_are_not(tmp_path: Path) -> None:
    attached = trained_network(act=8, weight=8, dtype=torch.float32)
    twin = trained_network(act=8, weight=8, dtype=torch.float32)
    losses = []
    for name, model, dtype in (("full", attached, "float32"), ("half", twin, "bfloat16")):
        (tmp_path / name).mkdir()
        losses.append(run(training(3, dtype=dtype), model, tmp_path / name, dtype=torch.float32))
    assert losses[0] != losses[1] and losses[1] == pytest.approx(losses[0], rel=0.2)
    assert all(value.dtype == torch.float32 for name, value in state(twin).items() if value.is_floating_point())
    assert Settings(dtype="float16").products == torch.float32
