"""What goes into a unit and what comes out, over a whole calibration set, streamed to disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.models import device_of
from dmq_cli.store.tensors import RowFile, RowWriter
from dmq_cli.wrap import Attached, QuantDenoiser, quantizing

Batches = Callable[[], Iterator[tuple[Tensor, Tensor]]]


class _Reached(Exception):
    """Ends a forward pass as soon as the unit has been seen."""


@dataclass(frozen=True)
class Captured:
    """Inputs of a unit (its tensor arguments by position or name) from one network, and the target from another."""

    inputs: dict[str, RowFile]
    target: RowFile
    timesteps: Tensor

    def batch(self, rows: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """(inputs, target, timesteps) of these rows, on the device the timesteps are on."""
        device = self.timesteps.device
        inputs = {name: file.rows(rows).to(device) for name, file in self.inputs.items()}
        return inputs, self.target.rows(rows).to(device), self.timesteps[rows]


def capture(attached: Attached, unit: str, data: Batches, num: int, folder: Path, *, activations: bool) -> Captured:
    """Run both networks up to `unit`.

    Inputs are those the quantized predecessors give (weights on; activations on or off as asked), the target is what the
    full-precision unit makes of full-precision inputs: Li et al., BRECQ, ICLR 2021 (arXiv 2102.05426), section 3.2.
    """
    module = attached.model.get_submodule(unit)
    with quantizing(attached, weights=True, activations=activations):
        inputs, _ = _record(attached, module, data, num, folder / "quantized", outputs=False)
    with quantizing(attached, weights=False, activations=False):
        _, target = _record(attached, module, data, num, folder / "full", outputs=True)
    timesteps = torch.cat([timestep for _, timestep in data()]).to(device_of(attached.adapter))
    if target is None:
        raise RuntimeError(f"the unit {unit} was not reached by the network")
    return Captured(inputs, target, timesteps)


@torch.no_grad()
def _record(
    attached: Attached, module: nn.Module, data: Batches, num: int, folder: Path, *, outputs: bool
) -> tuple[dict[str, RowFile], RowFile | None]:
    folder.mkdir(parents=True, exist_ok=True)
    denoiser = QuantDenoiser(attached)
    with contextlib.ExitStack() as stack:
        writers = _Writers(folder, num, stack)

        def seen(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
            if outputs:
                writers.append("target", output)
            else:
                for name, value in named_arguments(args, kwargs).items():
                    writers.append(name, value)
            raise _Reached

        hook = module.register_forward_hook(seen, with_kwargs=True)
        stack.callback(hook.remove)
        for sample, timestep in data():
            with contextlib.suppress(_Reached):
                denoiser(sample, timestep)
    files = {name: RowFile(folder / f"{name}.safetensors") for name in writers.open}
    return ({}, files.get("target")) if outputs else (files, None)


class _Writers:
    def __init__(self, folder: Path, num: int, stack: contextlib.ExitStack) -> None:
        self.folder, self.num, self.stack = folder, num, stack
        self.open: dict[str, RowWriter] = {}

    def append(self, name: str, value: Tensor) -> None:
        if name not in self.open:
            file = self.folder / f"{name}.safetensors"
            self.open[name] = self.stack.enter_context(RowWriter(file, (self.num, *value.shape[1:]), value.dtype))
        self.open[name].append(value.cpu())


def named_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the arguments of a call: "0", "1", ... by position, the others by name."""
    named = {str(i): v for i, v in enumerate(args)} | kwargs
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def call(module: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """Call a unit with captured arguments."""
    positions = sorted((k for k in inputs if k.isdigit()), key=int)
    output: Tensor = module(*(inputs[k] for k in positions), **{k: v for k, v in inputs.items() if not k.isdigit()})
    return output
