"""Capture the inputs and outputs of a unit over a whole calibration set, streamed to disk."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dmq_cli.errors import ModelError
from dmq_cli.models import Denoiser, device_of, is_by_sample, named_arguments, nested, packed
from dmq_cli.ops import moved
from dmq_cli.recon.calls import Batches, timesteps_of
from dmq_cli.recon.hooks import TARGET, Reached, hooked
from dmq_cli.recon.space import require_space, sizes
from dmq_cli.store.tensors import RowFile, RowWriter
from dmq_cli.wrap import Attached, QuantDenoiser, quantizing

_JOINT = "--"


class RowReader(Protocol):
    """A long tensor, read by rows."""

    def rows(self, indices: Tensor) -> Tensor:
        """The rows at these indices, (k, ...)."""
        ...


@dataclass(frozen=True)
class Captured:
    """Inputs of a unit from the quantized network and, where needed, from the full-precision one; and the target, see `packed`.

    Inputs are arguments by position or name; one that is the same for all samples is a Same.
    """

    inputs: Mapping[str, RowReader | Same]
    target: RowReader
    timesteps: Tensor
    full_inputs: Mapping[str, RowReader | Same] = field(default_factory=dict)

    def batch(self, rows: Tensor) -> tuple[dict[str, Any], Tensor, Tensor]:
        """(inputs, target, timesteps) of these rows, on the device the timesteps are on."""
        device = self.timesteps.device
        return self._read(self.inputs, rows), moved(self.target.rows(rows), device), self.timesteps[moved(rows, device)]

    def full(self, rows: Tensor) -> dict[str, Any]:
        """The full-precision inputs of these rows."""
        return self._read(self.full_inputs, rows)

    def _read(self, files: Mapping[str, RowReader | Same], rows: Tensor) -> dict[str, Any]:
        read = {name: source.value if isinstance(source, Same) else source.rows(rows) for name, source in files.items()}
        return {
            n: moved(value, self.timesteps.device) if isinstance(value, Tensor) else value for n, value in read.items()
        }


@dataclass(frozen=True)
class Same:
    """An argument that is the same for all samples: no tensor, or one without a row for each of them."""

    value: Any

    def is_like(self, other: Any) -> bool:
        """Whether a later call has an equal argument."""
        if isinstance(self.value, Tensor) and isinstance(other, Tensor):
            return torch.equal(self.value, other)
        return self.value is other or bool(type(self.value) is type(other) and self.value == other)


def capture(
    attached: Attached, unit: str, data: Batches, num: int, folder: Path, *, activations: bool,
    targets: Path | None = None, reads_full: bool = False, reads_quantized: bool = True,
) -> Captured:  # fmt: skip
    """Run the networks up to `unit`.

    Inputs are the outputs of the quantized predecessors (weights quantized; activations by `activations`), the target is the
    full-precision unit's output for full-precision inputs: Li et al., BRECQ, ICLR 2021 (arXiv 2102.05426), section 3.2.
    targets: folder in which `record` wrote the full-precision side; without it that is computed here. Files of an earlier call
    in `folder` are removed. reads_full: keep the full-precision inputs too; reads_quantized=False: only these, so that nothing is read of
    what other units have learned. Raises DiskError, before anything is written, where the disk has no room for all of it.
    """
    module, denoiser = {unit: attached.model.get_submodule(unit)}, QuantDenoiser(attached)
    for side in ("quantized", "full"):  # of the unit before
        shutil.rmtree(folder / side, ignore_errors=True)
    full = (
        _stored(targets, unit) if reads_quantized else {}
    )  # arguments that are the same for all samples are not stored
    again = TARGET not in full or (reads_full and len(full) == 1)
    _check_space(attached, unit, data, num, folder, inputs=reads_quantized + (again and reads_full), target=again)
    quantized: dict[str, RowReader | Same] = {}
    if reads_quantized:
        with quantizing(attached, weights=True, activations=activations):
            quantized = record(denoiser, module, data, num, folder / "quantized", outputs=False, stop=True)[unit]
    if again:
        with quantizing(attached, weights=False, activations=False):
            full = record(denoiser, module, data, num, folder / "full", inputs=reads_full, stop=True)[unit]
    timesteps, target = timesteps_of(data).to(device_of(attached.adapter)), full.pop(TARGET)
    if isinstance(target, Same):
        raise ModelError(
            f"The output of the block {unit} has no row for each sample, so it cannot be reconstructed; leave its class out of the"
            " blocks of the family's adapter."
        )
    shared = {name: value for name, value in quantized.items() if isinstance(value, Same)}
    return Captured(quantized if reads_quantized else full, target, timesteps, shared | full)


def _check_space(
    attached: Attached, unit: str, data: Batches, num: int, folder: Path, *, inputs: int, target: bool
) -> None:
    """Raise DiskError unless there is room. inputs: how many copies of them are written; target: whether it is written."""
    module = {unit: attached.model.get_submodule(unit)}
    with quantizing(attached, weights=False, activations=False):
        unit_sizes = sizes(QuantDenoiser(attached), module, data, stop=True).get(unit, {})
    target_size = unit_sizes.pop(TARGET, 0)
    require_space(f"the unit {unit}", num * (inputs * sum(unit_sizes.values()) + target * target_size), folder)


@torch.no_grad()
def record(
    denoiser: Denoiser, modules: Mapping[str, nn.Module], data: Batches, num: int, folder: Path,
    *, inputs: bool = True, outputs: bool = True, stop: bool = False,
) -> dict[str, dict[str, RowReader | Same]]:  # fmt: skip
    """Write the modules' inputs and outputs, num rows, to a file for each argument; returns them by module and argument.

    stop: end every forward pass at the (only) module. A module that runs twice in a pass is recorded once. RuntimeError if
    a module is not reached, ModelError for an argument that is no row for each sample and differs from call to call.
    """
    writers, ran = {name: _Writers(folder, name, num) for name in modules}, set[str]()

    def make_hook(name: str) -> Callable[..., None]:
        def hook(_m: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if name in ran:
                return
            ran.add(name)
            for argument, value in (named_arguments(args, kwargs) if inputs else {}).items():
                writers[name].take(argument, value)
            if outputs:
                writers[name].take(TARGET, packed(output))
            if stop:
                raise Reached

        return hook

    with contextlib.ExitStack() as stack, hooked(modules, make_hook):
        for writer in writers.values():
            writer.stack = stack
        for batch in data():
            ran.clear()
            for writer in writers.values():
                writer.batch = len(batch[0])
            with contextlib.suppress(Reached):
                denoiser(*batch)
    files_by_module = {name: _read(folder, name) for name in modules}
    if missed := [name for name, files in files_by_module.items() if not files]:
        raise RuntimeError(f"the unit {missed[0]} was not reached by the network")
    return {name: {**files, **writers[name].same} for name, files in files_by_module.items()}


def _stored(targets: Path | None, unit: str) -> dict[str, RowReader | Same]:
    return _read(targets, unit) if targets is not None else {}


def _read(folder: Path, name: str) -> dict[str, RowReader | Same]:
    files = sorted(folder.glob(f"{name}{_JOINT}*.safetensors"))
    return {file.stem.rpartition(_JOINT)[2]: RowFile(file) for file in files}


class _Writers:
    """Writes the inputs and outputs of one module. batch: number of samples of the current forward pass."""

    stack: contextlib.ExitStack
    batch: int

    def __init__(self, folder: Path, unit: str, num: int) -> None:
        self.folder, self.unit, self.num = folder, unit, num
        self.open: dict[str, RowWriter] = {}
        self.same: dict[str, Same] = {}

    def take(self, name: str, value: Any) -> None:
        """Write the rows of a batch, or keep a value without rows. Raises ModelError if that differs from the call before."""
        if name not in self.same and is_by_sample(value, self.batch):
            self._append(name, value)
        elif name in self.open or not self.same.setdefault(name, Same(value)).is_like(value):
            raise ModelError(
                f"The block {self.unit} is called with the argument {name}, which is no tensor with a row for each sample and"
                " differs from call to call, so the block cannot be called again with what was captured; leave its class out of the"
                " blocks of the family's adapter."
            )

    def _append(self, name: str, value: Tensor) -> None:
        if name not in self.open:
            file = self.folder / f"{self.unit}{_JOINT}{name}.safetensors"
            self.open[name] = self.stack.enter_context(RowWriter(file, (self.num, *value.shape[1:]), value.dtype))
        self.open[name].append(value.cpu())


def call(module: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """Call a unit with captured arguments; returns its output, see `packed`."""
    args, kwargs = nested(inputs)
    return packed(module(*args, **kwargs))
