from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dmq_cli.errors import DiskError
from dmq_cli.models import ModelDenoiser
from dmq_cli.quant import PerStep, PerStepScale, StaticScale
from dmq_cli.recon import bytes_of_targets, module_names, record
from dmq_cli.recon.capture import Captured, call, capture
from dmq_cli.store.tensors import RowFile
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, bake, quantizing
from tests.tiny import SMALL, TIMESTEPS, adapter, batches, data, network, scheme, wrapped

UNITS = [
    "conv_in",
    "time_embedding.linear_2",
    "down_blocks.1.attentions.0",
    "up_blocks.1.resnets.0",
    "conv_out",
]
PER_STEP = Rule("*.input", scale=PerStepScale())
NUM = 8


def take(
    attached: Attached, unit: str, folder: Path, size: int = 4, activations: bool = True, **more: Any
) -> Captured:  # fmt: skip
    return capture(attached, unit, lambda: batches(NUM, size), NUM, folder, activations=activations, **more)


def watch(model: nn.Module, unit: str, run: Any) -> tuple[list[Tensor], Tensor]:
    """Tensor arguments and output of a unit in one pass over all samples."""
    calls: list[Any] = []
    hook = model.get_submodule(unit).register_forward_hook(
        lambda _m, args, kwargs, output: calls.append(([*args, *kwargs.values()], output)), with_kwargs=True
    )
    run(*data(NUM))
    hook.remove()
    (arguments, output) = calls[0]
    return [value for value in arguments if isinstance(value, Tensor)], output


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("activations", [False, True])
def test_inputs_are_quantized_and_targets_full_precision(unit: str, activations: bool, tmp_path: Path) -> None:
    attached = wrapped(scheme(PER_STEP, weight=3, act=4))
    bake(attached)
    captured = take(attached, unit, tmp_path, activations=activations)
    with quantizing(attached, weights=True, activations=activations):
        inputs, _ = watch(attached.model, unit, QuantDenoiser(attached))
    full_inputs, target = watch(plain := network(), unit, plain)
    batch_inputs, batch_target, timesteps = captured.batch(torch.arange(NUM))
    assert len(batch_inputs) == len(inputs) == len(full_inputs) >= 1
    for name, value in zip(batch_inputs, inputs, strict=True):
        assert torch.allclose(batch_inputs[name], value, rtol=1e-9, atol=1e-10)
    assert torch.allclose(batch_target, target, rtol=1e-10, atol=1e-12)
    assert torch.equal(timesteps, data(NUM)[1])
    same = unit == "conv_in"  # has no predecessors
    assert all(torch.allclose(a, b, rtol=1e-3) == same for a, b in zip(inputs, full_inputs, strict=True))


def test_the_batch_size_of_capturing_does_not_matter(tmp_path: Path) -> None:
    attached = wrapped()
    first, second = (take(attached, UNITS[2], tmp_path / str(n), n) for n in (3, 8))
    rows = torch.tensor([5, 0, 7, 2])
    for left, right in zip(flatten(first.batch(rows)), flatten(second.batch(rows)), strict=True):
        assert torch.allclose(left, right, rtol=1e-9, atol=1e-11)


def flatten(batch: tuple[dict[str, Tensor], Tensor, Tensor]) -> list[Tensor]:
    return [*batch[0].values(), batch[1], batch[2]]


@pytest.mark.parametrize("unit", UNITS)
def test_a_unit_called_again_with_mixed_timesteps_gives_what_it_gave(unit: str, tmp_path: Path) -> None:
    rules = scheme(PER_STEP, Rule("attn.*", scale=PerStepScale()), Rule("attn.to_*.weight", scale=StaticScale()), act=4)
    attached = wrapped(rules)
    captured = take(attached, unit, tmp_path)
    _, expected = watch(attached.model, unit, QuantDenoiser(attached))
    rows = torch.tensor([6, 1, 3, 0])
    inputs, _, timesteps = captured.batch(rows)
    assert len(set(timesteps.tolist())) == 4
    with attached.context.at(attached.grid(timesteps)):
        again = call(attached.model.get_submodule(unit), inputs)
    assert torch.allclose(again, expected[rows], rtol=1e-9, atol=1e-10)
    with attached.context.at(attached.grid(timesteps.roll(1))):
        assert not torch.allclose(call(attached.model.get_submodule(unit), inputs), expected[rows], rtol=1e-3)


def test_the_network_is_run_only_up_to_the_unit(tmp_path: Path) -> None:
    attached, calls = wrapped(), [0]
    attached.model.get_submodule("conv_out").register_forward_pre_hook(lambda *_: calls.__setitem__(0, calls[0] + 1))
    take(attached, UNITS[2], tmp_path)
    assert calls == [0]
    module = attached.model.get_submodule(UNITS[2])
    assert not module._forward_hooks
    with pytest.raises(RuntimeError, match="outside StepContext"):
        _ = attached.context.step


def test_a_unit_that_is_not_reached(tmp_path: Path) -> None:
    attached = wrapped()
    attached.model.register_module("beside", nn.Linear(1, 1))
    with pytest.raises(RuntimeError, match="beside was not reached"):
        take(attached, "beside", tmp_path)


def test_scales_of_every_step_are_used() -> None:
    attached = wrapped(scheme(PER_STEP))
    tables = [q.scale for q in attached.quantizers("input").values()]
    assert len(tables) == 55 and all(
        isinstance(table, PerStep) and len(table.scale) == len(TIMESTEPS) for table in tables
    )


def recorded(folder: Path, kind: str, inputs: bool) -> dict[str, nn.Module]:
    """Targets of all units of the small network, as the stage leaves them."""
    full = adapter(**SMALL)
    modules = {name: full.model.get_submodule(name) for name in module_names(full, kind)}
    record(ModelDenoiser(full), modules, lambda: batches(NUM), NUM, folder, inputs=inputs)
    assert not any(module._forward_hooks for module in modules.values())
    return modules


def same(one: Captured, other: Captured) -> bool:
    rows = torch.tensor([5, 0, 7, 2, 2])
    pairs = zip([*flatten(one.batch(rows)), *one.full(rows).values()],
                [*flatten(other.batch(rows)), *other.full(rows).values()], strict=True)  # fmt: skip
    return one.full_inputs.keys() == other.full_inputs.keys() and all(torch.equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("kind", ["blocks", "layers"])
def test_targets_recorded_once_are_those_of_every_unit(kind: str, tmp_path: Path) -> None:
    attached, every = wrapped(scheme(), **SMALL), tmp_path / "every"
    modules = recorded(every, kind, inputs=True)
    assert len(modules) == {"blocks": 10, "layers": 25}[kind]
    for unit in list(modules)[:: {"blocks": 1, "layers": 4}[kind]]:
        alone = take(attached, unit, tmp_path / "alone", reads_full=True)
        together = take(attached, unit, tmp_path / "together", targets=every, reads_full=True)
        assert same(alone, together) and set(alone.full_inputs) == set(alone.inputs) >= {"0"}
        assert not (tmp_path / "together" / "full").exists(), "nothing is computed again"


def test_full_precision_inputs_that_were_not_recorded_are_computed(tmp_path: Path) -> None:
    attached, unit = wrapped(scheme(), **SMALL), "mid_block.resnets.0"
    recorded(tmp_path / "every", "blocks", inputs=False)
    alone = take(attached, unit, tmp_path / "alone", reads_full=True)
    captured = take(attached, unit, tmp_path / "found", targets=tmp_path / "every", reads_full=True)
    assert same(alone, captured) and set(captured.full_inputs) == {"0", "1"}
    without = take(attached, unit, tmp_path / "without", targets=tmp_path / "every")
    assert not without.full_inputs and not (tmp_path / "without" / "full").exists()
    none = tmp_path / "none"
    none.mkdir()  # too large for the disk: the stage leaves nothing
    assert same(alone, take(attached, unit, tmp_path / "again", targets=none, reads_full=True))


@pytest.mark.parametrize("inputs", [False, True])
@pytest.mark.parametrize("kind", ["blocks", "layers"])
def test_their_size_is_known_beforehand(kind: str, inputs: bool, tmp_path: Path) -> None:
    full = adapter(**SMALL)
    modules = {name: full.model.get_submodule(name) for name in module_names(full, kind)}
    expected = bytes_of_targets(ModelDenoiser(full), modules, lambda: batches(NUM), inputs=inputs)
    assert not any(module._forward_hooks for module in modules.values())
    recorded(tmp_path, kind, inputs)
    files = sorted(tmp_path.iterdir())
    assert {file.name.partition("--")[0] for file in files} == set(modules)
    arguments = {file.name.partition("--")[2].removesuffix(".safetensors") for file in files}
    embedding = inputs and kind == "blocks"  # five blocks read it, by position, and the attention, by name
    assert arguments == {"target", *(["0"] if inputs else []), *(["1", "temb"] if embedding else [])}
    assert len(files) == len(modules) * (1 + inputs) + 6 * embedding
    stored = [RowFile(file) for file in files]
    assert sum(row_file.rows([0]).nbytes for row_file in stored) == expected
    assert NUM * expected <= sum(file.stat().st_size for file in files) < NUM * expected + 1000 * len(files)


def disk_with(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))


@pytest.mark.parametrize("reads_full", [False, True])
@pytest.mark.parametrize("recorded_before", [False, True])
def test_a_disk_without_room_is_told_before_anything_is_written(
    reads_full: bool, recorded_before: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attached, unit = wrapped(scheme(), **SMALL), "mid_block.resnets.0"
    every = tmp_path / "every"
    if recorded_before:
        recorded(every, "blocks", inputs=True)
    options: dict[str, Any] = {"reads_full": reads_full, "targets": every if recorded_before else None}
    captured = take(attached, unit, tmp_path / "there", **options)
    read = NUM * sum(value.nbytes for value in captured.batch(torch.arange(1))[0].values())
    full = read * reads_full + NUM * captured.batch(torch.arange(1))[1].nbytes
    needed = read + (0 if recorded_before else full)
    disk_with(monkeypatch, needed - 1)
    with pytest.raises(DiskError, match=r"Capturing the unit mid_block.resnets.0 writes .* GiB are free") as caught:
        take(attached, unit, tmp_path / "none", **options)
    assert "use fewer recon.num_samples, or another folder with runtime.outputs." in str(caught.value)
    assert not (tmp_path / "none").exists() and not attached.model.get_submodule(unit)._forward_hooks
    disk_with(monkeypatch, needed)
    assert same(captured, take(attached, unit, tmp_path / "enough", **options))


def test_what_was_captured_before_is_removed(tmp_path: Path) -> None:
    attached = wrapped(scheme(), **SMALL)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "mine.txt").touch()
    for unit, reads_full in (("mid_block.resnets.0", True), ("conv_out", True), ("conv_in", False)):
        take(attached, unit, tmp_path / "work", reads_full=reads_full)
        paths = sorted(
            str(file.relative_to(tmp_path / "work")) for file in (tmp_path / "work").rglob("*.*") if file.is_file()
        )
        arguments = ["0", "1"] if "resnets" in unit else ["0"]
        full = [f"full/{unit}--{name}.safetensors" for name in (arguments if reads_full else [])]
        quantized = [f"quantized/{unit}--{name}.safetensors" for name in arguments]
        assert paths == [*full, f"full/{unit}--target.safetensors", "mine.txt", *quantized]
