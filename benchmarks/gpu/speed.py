"""Ratios of two things timed by turns on one device, images per second, and memory."""

from __future__ import annotations

import copy
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu import networks
from benchmarks.gpu.networks import Case
from dmq_cli.deploy.bench.process import peak_mib
from dmq_cli.models import ModelDenoiser, Numerics, packed
from dmq_cli.recon import AdaRound, Pass
from dmq_cli.recon.learning import Setting, learn, start
from dmq_cli.recon.losses import lp_loss
from dmq_cli.recon.units import ModuleUnit
from dmq_cli.wrap import Attached, QuantDenoiser, bake

ITERATIONS = 8


def wait(device: torch.device) -> None:
    """Until the device is done."""
    if device.type != "cpu":
        getattr(torch, device.type).synchronize()


def seconds(device: torch.device, action: Callable[[], object]) -> float:
    """Of one call, the device's work included."""
    wait(device)
    begin = time.perf_counter()
    action()
    wait(device)
    return time.perf_counter() - begin


def by_turns(device: torch.device, *actions: Callable[[], object], rounds: int = 4) -> list[float]:
    """The fastest call of each, after one that warms up."""
    times = [[seconds(device, action) for action in actions] for _ in range(rounds + 1)]
    return [min(column) for column in zip(*times[1:], strict=True)]


@torch.inference_mode()
def forward(case: Case, device: torch.device, small: bool) -> Iterator[str]:
    """Simulated W4A8 over full precision; images per second; peak memory."""
    batch = 4 if small else case.batch
    full = ModelDenoiser(case.adapter(small))
    full.adapter.model.to(device)
    attached = networks.quantized(case.adapter(small), device)
    bake(attached)
    call, denoiser = networks.inputs(full.adapter, batch, device), QuantDenoiser(attached)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    plain, simulated = by_turns(device, lambda: full(*call), lambda: denoiser(*call))
    yield f"{case.title}, batch {batch}: simulated W4A8 / full precision {simulated / plain:.2f} ({plain:.3g} s a call)"
    yield f"{case.title}: {batch / simulated / case.steps:.3g} images/s at {case.steps} steps, W4A8; {_peak(device)}"


def _peak(device: torch.device) -> str:
    if device.type == "cuda":
        return f"peak memory of both networks {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB"
    return f"peak memory of this process {peak_mib():.0f} MiB"


@torch.inference_mode()
def layouts(case: Case, device: torch.device, small: bool) -> Iterator[str]:
    """Channels-last, and compiled blocks (small: one of them), over the default, of the quantized network."""
    batch = 4 if small else case.batch
    kinds = {"channels-last": Numerics(channels_last=True), "compiled": Numerics(compile=True)}
    plain = QuantDenoiser(_baked(case, device, small, Numerics()))
    call = networks.inputs(plain.attached.adapter, batch, device)
    for name, numerics in kinds.items():
        other = QuantDenoiser(_baked(case, device, small, numerics))
        changed, default = by_turns(device, lambda: other(*call), lambda: plain(*call))  # noqa: B023
        yield f"{case.title}, batch {batch}: {name} / default {changed / default:.2f}"


def _baked(case: Case, device: torch.device, small: bool, numerics: Numerics) -> Attached:
    attached = networks.quantized(case.adapter(small), device)
    bake(attached)
    numerics.apply(attached.model, lambda: attached.units()[: 1 if small else None])
    return attached


def adaround(case: Case, device: torch.device, small: bool) -> Iterator[str]:
    """An iteration of learned rounding over forward and backward of the same block without quantizers."""
    batch = 4 if small else min(case.batch, 32)
    adapter = case.adapter(small)
    adapter.model.to(device)
    block = Block(adapter, case.unit, networks.inputs(adapter, batch, device))
    attached, unit, one = (
        networks.quantized(adapter, device),
        ModuleUnit(case.unit),
        Pass(ITERATIONS, AdaRound(warmup=0.0)),
    )
    times: list[float] = []

    def data() -> Iterator[Any]:
        yield networks.inputs(adapter, batch, torch.device("cpu"))

    def report(*_: Any, **__: Any) -> None:
        wait(device)
        times.append(time.perf_counter())

    chosen = {name: q for name, q in attached.quantizers("weight").items() if unit.owns(name)}
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(attached, data, batch, Path(folder), report, batch)
        learn(setting, one, unit, 0, start(attached, one, chosen))
    iteration = min(later - earlier for earlier, later in itertools.pairwise(times))
    (plain,) = by_turns(device, block)
    yield f"{case.title}, {case.unit}, batch {batch}: AdaRound iteration / forward and backward {iteration / plain:.2f}"


class Block:
    """Forward and backward of one block in full precision, to its weights and inputs."""

    def __init__(self, adapter: Any, unit: str, call: Any) -> None:
        module: nn.Module = adapter.model.get_submodule(unit)
        kept: list[Any] = []
        hook = module.register_forward_hook(lambda _m, args, named, _y: kept.append((args, named)), with_kwargs=True)
        with torch.no_grad():
            adapter.predict(*call)
        hook.remove()
        self.args, self.named = kept[0]
        self.block = copy.deepcopy(module).requires_grad_(True)

    def __call__(self) -> None:
        args = [x.detach().requires_grad_(x.is_floating_point()) if isinstance(x, Tensor) else x for x in self.args]
        output = packed(self.block(*args, **self.named))
        lp_loss(output, torch.zeros_like(output), 2.0).backward()  # type: ignore[no-untyped-call]
        self.block.zero_grad(set_to_none=True)
