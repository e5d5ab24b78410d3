"""What runs on a device other than the CPU: nothing mixes the two, and nothing waits for it at every call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from dmq_cli.calib import fit_activations, fit_weights
from dmq_cli.correct import Ptqd, Tac
from dmq_cli.errors import NumericsError
from dmq_cli.models import ModelDenoiser
from dmq_cli.ops import WITHOUT_FLOAT64
from dmq_cli.recon import AdaRound, Pass, Reconstruction, Scales
from dmq_cli.sampling import PLMS, Euler, Sampler, sample_images, walk
from dmq_cli.stages.build import Unquantized
from dmq_cli.wrap import Attached, QuantDenoiser, bake
from tests import tiny
from tests.second.device import NAME, Device, MixedDevices, second_device

FLOAT = torch.float32
CALLS = 6


@pytest.fixture
def device() -> Iterator[Device]:
    with second_device() as second, sdpa_kernel(SDPBackend.MATH):  # other kernels of the CPU round otherwise
        yield second


def wrapped(there: bool, fit: bool = True) -> Attached:
    """The quantized twin of the tiny network, here or there, baked."""
    twin = tiny.wrapped(dtype=FLOAT, fit=fit, **tiny.SMALL)
    if there:
        twin.model.to(NAME)
        twin.grid.to(NAME)
    bake(twin)
    return twin


def images(attached: Attached, settings: Any, **options: Any) -> Tensor:
    with torch.inference_mode():
        plan = settings.scheduler(tiny.SCHEDULE)
        steps = walk(QuantDenoiser(attached), plan, range(4), tiny.SHAPE, eta=settings.eta, **options)
        return sample_images(steps)


@pytest.mark.parametrize("settings", [Sampler(CALLS), Sampler(CALLS, eta=1.0), PLMS(CALLS), Euler(CALLS)], ids=str)
def test_a_walk_is_that_of_the_cpu_and_the_host_waits_at_its_end_alone(settings: Any, device: Device) -> None:
    here, there = wrapped(False), wrapped(True)
    expected = images(here, settings)
    device.waits, device.computed = Counter(), 0
    assert torch.equal(images(there, settings), expected) and expected.isfinite().all() and device.computed > 500
    assert sum(device.waits.values()) == 2, f"whether all is finite, and the images: {device.waits}"


def test_a_mixture_of_devices_is_noticed(device: Device) -> None:
    there = torch.ones(3, device=NAME)
    assert (there + torch.tensor(1.0)).tolist() == [2.0] * 3, "numbers may come from the CPU"
    with pytest.raises(MixedDevices, match="aten::add"):
        there + torch.ones(3)
    assert float(there.sum()) == 3 and sum(device.waits.values()) == 2


def test_an_estimate_that_is_not_finite_is_named_after_the_walk(device: Device) -> None:
    class Broken:
        device = torch.device(f"{NAME}:0")
        calls = 0

        def __call__(self, sample: Tensor, timestep: Tensor, cond: object = None) -> Tensor:
            self.calls += 1
            return sample * (torch.nan if self.calls in (2, 3) else 1.0)

    broken, plan = Broken(), tiny.scheduler(4)
    with pytest.raises(NumericsError, match=r"timestep 500 \(call 1\)"):
        list(walk(broken, plan, range(2), tiny.SHAPE))
    assert broken.calls == 4


@pytest.mark.parametrize("method", [Tac("0-3"), Ptqd("0-3")], ids=["tac", "ptqd"])
def test_corrections_are_estimated_and_used_there(method: Any, device: Device) -> None:
    settings, tables = Sampler(CALLS, eta=1.0), []
    for there in (False, True):
        attached = wrapped(there)
        plan = settings.scheduler(tiny.SCHEDULE)
        with torch.inference_mode():
            estimate = method.estimate(Unquantized(attached), QuantDenoiser(attached), plan, tiny.SHAPE, settings.eta)
        tables.append((estimate, images(attached, settings, correction=method.load(estimate))))
        assert all(type(table) is Tensor for table in estimate.values())
    (first, expected), (second, there_images) = tables
    assert all(torch.equal(second[name], table) for name, table in first.items())
    assert torch.equal(there_images, expected)
    again = images(attached, settings, correction=(used := method.load(first)))
    device.copies.clear()
    images(attached, settings, correction=used)
    assert torch.equal(again, expected) and not any("correct/" in line for line in device.copies), "moved once"


def test_fitting_and_learning_there_give_what_the_cpu_gives(device: Device, tmp_path: Path) -> None:
    passes = {"weights": Pass(2, rounding=AdaRound(), scales=Scales())}
    states = []
    for there in (False, True):
        attached = wrapped(there, fit=False)
        fit_weights(attached)
        fit_activations(attached, tiny.batches(dtype=FLOAT))
        before = Counter(device.waits)
        Reconstruction(passes, units="blocks", batch_size=4).run(
            attached, lambda: tiny.batches(dtype=FLOAT), 8, tmp_path / str(there), lambda *_, **__: None
        )
        learning = {line: n for line, n in (device.waits - before).items() if line.startswith("recon/learning")}
        states.append({name: getattr(value, "held", value) for name, value in attached.model.state_dict().items()})
    assert sum(learning.values()) == 2 * len(attached.units()), "once an iteration"
    assert all(torch.equal(states[1][name], value) for name, value in states[0].items())


def test_a_device_without_float64(device: Device) -> None:
    """As MPS: ranges, predictions and corrections do without."""
    device.narrow = True
    WITHOUT_FLOAT64.add(NAME)
    try:
        attached = wrapped(True, fit=False)
        fit_weights(attached)
        fit_activations(attached, tiny.batches(dtype=FLOAT))
        bake(attached)
        samples = images(attached, Sampler(CALLS, eta=1.0))
        with torch.inference_mode():
            full = ModelDenoiser(attached.adapter)
            Ptqd("0-3").estimate(full, QuantDenoiser(attached), tiny.scheduler(2), tiny.SHAPE)
    finally:
        WITHOUT_FLOAT64.discard(NAME)
    assert samples.isfinite().all()
