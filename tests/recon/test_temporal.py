from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.ops import PerChannel
from dmq_cli.quant import PerStepScale
from dmq_cli.recon import AdaRound, Pass, Reconstruction, Scales
from dmq_cli.recon.units import ModuleUnit, TemporalUnit, temporal_layers, units_of
from dmq_cli.wrap import Attached, Rule, Scheme, quantizing, state
from tests.recon.runs import SMALL_UNITS, changed, joint, run, small
from tests.tiny import SMALL, TIMESTEPS, adapter, batches, data, network, wrapped

PROJECTIONS = 5
ONLY_TEMPORAL = [  # TFMQ-DM's finite set: activations have a scale for every step
    Rule("*", bits=32),
    Rule("time.*.input|resnet.time_proj.input", bits=16, scale=PerStepScale()),
    Rule("time.*.weight|resnet.time_proj.weight", bits=16, granularity=PerChannel()),
]


def temporal(weight: int, act: int) -> Attached:
    """Only the temporal layers have quantizers."""
    bits = [
        Rule("time.*.weight|resnet.time_proj.weight", bits=weight),
        Rule("time.*.input|resnet.time_proj.input", bits=act),
    ]
    return wrapped(Scheme([*ONLY_TEMPORAL, *bits]), **SMALL)


def unit_of(attached: Attached) -> TemporalUnit:
    return TemporalUnit(temporal_layers(attached.adapter))


def embeddings(model: nn.Module, timesteps: Tensor) -> list[Tensor]:
    """What one forward pass gives at every projection, by name of the block."""
    outputs: dict[str, Tensor] = {}
    hooks = [
        module.register_forward_hook(lambda _m, _x, y, name=name: outputs.update({name: y}))
        for name, module in model.named_modules()
        if name.endswith("time_emb_proj")
    ]
    with torch.no_grad():
        model(torch.zeros(len(timesteps), *data()[0].shape[1:], dtype=torch.float64), timesteps)
    for hook in hooks:
        hook.remove()
    assert len(outputs) == PROJECTIONS
    return [outputs[name] for name in adapter(**SMALL).temporal(timesteps)]


def features(attached: Attached, timesteps: Tensor) -> Tensor:
    with torch.no_grad(), attached.at(timesteps):
        return unit_of(attached).run(attached, {"timestep": timesteps})


def test_the_temporal_layers() -> None:
    attached = small()
    layers = temporal_layers(attached.adapter)
    assert len(layers) == 2 + PROJECTIONS and all("time_emb" in name for name in layers)
    owned = [name for name in attached.quantizers() if unit_of(attached).owns(name)]
    assert len(owned) == 2 * len(layers) and all(name.startswith(layers) for name in owned)


def test_it_gives_what_one_forward_pass_gives_at_every_projection() -> None:
    attached = small()
    with quantizing(attached, weights=False, activations=False):
        projections = features(attached, TIMESTEPS)
    expected = torch.cat(embeddings(network(**SMALL), TIMESTEPS), 1)
    assert torch.equal(projections, expected) and projections.shape == (4, PROJECTIONS * 8)


def test_sixteen_bits_come_to_full_precision() -> None:
    """Ranges are about 6 standard deviations wide (a little more here, a little less there), so that a step of 16 bits is
    6 / 65,535 of one, rounding to it an error of 1 / sqrt(12) of that, 2.6e-5. Three layers with an input and a weight each add
    six such errors, at random signs: 2.6e-5 * sqrt(6) = 6.5e-5. Twice as much is no rounding error any more."""
    fine = features(temporal(16, 16), TIMESTEPS)
    full = torch.cat(embeddings(network(**SMALL), TIMESTEPS), 1)
    relative = float((fine - full).norm() / full.norm())
    assert 1e-6 < relative < 1.3e-4
    coarse = features(temporal(16, 8), TIMESTEPS)
    assert float((coarse - full).norm() / full.norm()) > 30 * relative, "errors grow with the step"


@pytest.mark.parametrize("p", [2.0, 2.4])
def test_the_loss_is_the_sum_over_all_projections(p: float, tmp_path: Path) -> None:
    """Of the quantized network's own forward pass, at every projection, against the full-precision one's."""
    attached, (_, timesteps) = temporal(3, 4), data(8)
    with attached.at(timesteps):
        quantized = embeddings(attached.model, timesteps)
    full = embeddings(network(**SMALL), timesteps)
    each = [float(((a - b).abs() ** p).sum(1).mean()) for a, b in zip(quantized, full, strict=True)]
    settings = Reconstruction({"x": Pass(1, scales=Scales(), p=p)}, batch_size=8, temporal="joint")
    losses = run(settings, attached, tmp_path)["x"]
    assert list(losses) == ["temporal"] and len(each) == PROJECTIONS and min(each) > 0
    assert losses["temporal"] == [pytest.approx(sum(each), rel=1e-9)]


def test_its_inputs_are_the_timesteps_and_nothing_is_written(tmp_path: Path) -> None:
    attached, timesteps = small(), data(8)[1]
    captured = unit_of(attached).capture(
        attached, lambda: batches(8, 4), 8, tmp_path, activations=True, targets=None, reads_full=False
    )
    rows = torch.tensor([5, 0, 0, 7, 2])
    inputs, target, at = captured.batch(rows)
    assert torch.equal(at, timesteps[rows]) and torch.equal(inputs["timestep"], at) and list(tmp_path.iterdir()) == []
    full = torch.cat(embeddings(network(**SMALL), TIMESTEPS), 1)
    assert torch.equal(target, full[(at[:, None] == TIMESTEPS).nonzero()[:, 1]])


def temporal_state(attached: Attached) -> dict[str, Tensor]:
    return {key: value for key, value in state(attached).items() if "time_emb" in key}


def test_joint_learns_all_temporal_quantizers_first_and_blocks_leave_them_alone(tmp_path: Path) -> None:
    attached, states, calls = small(), [state(small())], [0]
    attached.model.get_submodule("conv_out").register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    order: list[str] = []

    def check(_: str, unit: str) -> bool:
        if unit not in order:
            order.append(unit)
            if len(order) == 2:
                states.append(state(attached))
        if len(order) == 1:
            assert calls == [1], "once for the order of the units; timesteps are all that the temporal unit reads"
        return False

    run(joint(2, temporal="joint"), attached, tmp_path, check)
    before, between, after = *states, state(attached)
    assert order == ["temporal", *[u for u in small().units() if not u.startswith("time_embedding")]]
    names = {name.partition("_quantizer")[0] for name in attached.quantizers()}
    temporal_names = {name for name in names if "time_emb" in name}
    first = changed(before, between) - {"conv_in.weight", "conv_in.input"}  # the next unit has begun
    assert first == temporal_names and len(temporal_names) == 2 * (2 + PROJECTIONS)
    assert changed(between, after) == names - temporal_names


def test_freeze_leaves_them_as_they_were_calibrated(tmp_path: Path) -> None:
    attached = small()
    losses = run(joint(1, temporal="freeze"), attached, tmp_path)["joint"]
    assert list(losses) == [u for u in small().units() if not u.startswith("time_embedding")]
    before, after = temporal_state(small()), temporal_state(attached)
    assert len(before) == 4 * (2 + PROJECTIONS) and before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    rest = changed(state(small()), state(attached))
    assert len(rest) == len({n.partition("_quantizer")[0] for n in attached.quantizers()}) - 2 * (2 + PROJECTIONS)
    for name in temporal_layers(attached.adapter):
        layer = attached.layers()[name]
        assert layer.baked is not None and torch.equal(layer.baked, layer.weight_quantizer(layer.weight))


def test_block_has_every_projection_learn_with_its_block(tmp_path: Path) -> None:
    attached, when = small(), dict[str, str]()
    last = state(attached)

    def check(_: str, unit: str) -> bool:
        nonlocal last
        now = state(attached)
        when.update({name: unit for name in changed(last, now) if name.endswith("time_emb_proj.input")})
        last = now
        return False

    losses = run(joint(2), attached, tmp_path, check)["joint"]
    assert len(losses) == SMALL_UNITS and len(when) == PROJECTIONS
    assert all(name == f"{unit}.time_emb_proj.input" for name, unit in when.items())


@pytest.mark.parametrize(
    ("kind", "count"), [("block", SMALL_UNITS), ("joint", SMALL_UNITS - 1), ("freeze", SMALL_UNITS - 2)]
)
def test_every_quantizer_learns_in_one_unit(kind: str, count: int) -> None:
    attached = small()
    for units in (units_of(attached, "blocks", kind), units_of(attached, "layers", kind)):
        owners = {name: sum(unit.owns(name) for unit in units) for name in attached.quantizers("weight")}
        frozen = {name for name in owners if "time_emb" in name and kind == "freeze"}
        assert owners == {name: int(name not in frozen) for name in owners} and len(frozen) in (0, 2 + PROJECTIONS)
    assert len(units_of(attached, "blocks", kind)) == count
    assert [type(unit) for unit in units[1:]] == [ModuleUnit] * (len(units) - 1)


def test_it_lowers_the_error_of_the_embeddings_at_four_bits(tmp_path: Path) -> None:
    timesteps = TIMESTEPS
    full = torch.cat(embeddings(network(**SMALL), timesteps), 1)
    nearest, learned = temporal(4, 32), temporal(4, 32)
    rounding_pass = Pass(150, rounding=AdaRound(lr=0.05, regulariser=1e-3))
    losses = run(Reconstruction({"x": rounding_pass}, temporal="joint", batch_size=8), learned, tmp_path)["x"]
    errors: list[Any] = [(features(each, timesteps) - full).square().mean() for each in (nearest, learned)]
    assert list(losses) == ["temporal"] and errors[1] < 0.5 * errors[0]
