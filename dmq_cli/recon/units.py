"""Units of reconstruction: a block, a layer, or all layers that depend on the timestep."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from dmq_cli.models import Adapter, device_of, executed
from dmq_cli.recon.calls import Batches, condition_of, timesteps_of
from dmq_cli.recon.capture import Captured, call, capture
from dmq_cli.wrap import Attached, QuantMixin, quantizing

_LABELS = "class_labels"
TEMPORAL = ("time.", "resnet.time_proj")


class Unit(Protocol):
    """A piece of the network that learns by itself."""

    @property
    def name(self) -> str:
        """Its name in reports."""
        ...

    def owns(self, path: str) -> bool:
        """Whether the quantizer at this path learns with the unit."""
        ...

    def capture(
        self, attached: Attached, data: Batches, num: int, folder: Path, *, activations: bool, targets: Path | None,
        reads_full: bool, reads_quantized: bool = True,
    ) -> Captured:  # fmt: skip
        """Inputs and target over the calibration set."""
        ...

    def run(self, attached: Attached, inputs: Mapping[str, Tensor]) -> Tensor:
        """The unit's output; called inside `attached.at`."""
        ...


@dataclass(frozen=True)
class ModuleUnit:
    """A module. but: layers inside that do not learn with it."""

    name: str
    but: tuple[str, ...] = ()

    def owns(self, path: str) -> bool:
        """See Unit."""
        return path.startswith(f"{self.name}.") and not path.startswith(tuple(f"{layer}." for layer in self.but))

    def capture(
        self, attached: Attached, data: Batches, num: int, folder: Path, *, activations: bool, targets: Path | None,
        reads_full: bool, reads_quantized: bool = True,
    ) -> Captured:  # fmt: skip
        """See recon.capture."""
        return capture(
            attached, self.name, data, num, folder, activations=activations, targets=targets, reads_full=reads_full,
            reads_quantized=reads_quantized,
        )  # fmt: skip

    def run(self, attached: Attached, inputs: Mapping[str, Tensor]) -> Tensor:
        """See Unit."""
        return call(attached.model.get_submodule(self.name), inputs)


@dataclass(frozen=True)
class TemporalUnit:
    """TFMQ-DM's temporal information block: timestep embedding and every block's projection, a function of time alone.

    Huang et al., TFMQ-DM, CVPR 2024 (arXiv:2311.16503), section 4.2 (TIAR): min sum_i |e^_i(t) - e_i(t)|^2 over all of it
    together. Inputs are the timesteps of the calibration set; no network evaluation is needed.
    """

    layers: tuple[str, ...]
    name: str = "temporal"

    def owns(self, path: str) -> bool:
        """See Unit."""
        return path.startswith(tuple(f"{layer}." for layer in self.layers))

    def capture(
        self, attached: Attached, data: Batches, num: int, folder: Path, *, activations: bool, targets: Path | None,
        reads_full: bool, reads_quantized: bool = True,
    ) -> Captured:  # fmt: skip
        """Compute the full-precision features of every timestep. Inputs are the timestep and, where classes are embedded with
        it, the class."""
        device = device_of(attached.adapter)
        conditions = [cond for call in data() if (cond := condition_of(call)) is not None and _LABELS in cond]
        arguments = {"timestep": timesteps_of(data).to(device)}
        arguments |= {_LABELS: torch.cat([cond[_LABELS] for cond in conditions]).to(device)} if conditions else {}
        distinct, rows = torch.unique(torch.stack(list(arguments.values()), 1), dim=0, return_inverse=True)
        columns = (column.to(value.dtype) for column, value in zip(distinct.unbind(1), arguments.values(), strict=True))
        finite = dict(zip(arguments, columns, strict=True))
        with quantizing(attached, weights=False, activations=False), torch.no_grad(), attached.at(finite["timestep"]):
            features = self.run(attached, finite)
        inputs = {name: _TableRows(value) for name, value in arguments.items()}
        return Captured(inputs, _TableRows(features, rows), arguments["timestep"], inputs)

    def run(self, attached: Attached, inputs: Mapping[str, Tensor]) -> Tensor:
        """Concatenate all features, (B, sum of widths): summing over dim 1 sums the losses of the projections."""
        cond = {_LABELS: inputs[_LABELS]} if _LABELS in inputs else None
        return torch.cat(list(attached.adapter.temporal(inputs["timestep"], cond).values()), dim=1)


class _TableRows:
    """Rows of a table in memory. index: for each row, its row in the table; None: the same."""

    def __init__(self, table: Tensor, index: Tensor | None = None) -> None:
        self.table, self.index = table, index

    def rows(self, indices: Tensor) -> Tensor:
        indices = indices.to(self.table.device)
        return self.table[indices if self.index is None else self.index[indices]]


def temporal_layers(adapter: Adapter) -> tuple[str, ...]:
    """The layers that depend on the timestep alone."""
    return tuple(layer.name for layer in adapter.layers() if layer.role.startswith(TEMPORAL))


def module_names(adapter: Adapter, kind: str) -> list[str]:
    """Names of the modules that units are made of: `blocks` (see Adapter.units) or `layers`, in execution order."""
    if kind == "blocks":
        return adapter.units()
    return executed(adapter.model, (), adapter.units)  # which runs the network once


def units_of(attached: Attached, kind: str, temporal: str) -> list[Unit]:
    """List all units in the order in which they learn.

    temporal: `block` leaves every projection in its block, `joint` makes one unit of all temporal layers and has it learn
    first, `freeze` leaves them out of learning.
    """
    with quantizing(attached, weights=False, activations=False):
        names = module_names(attached.adapter, kind)
    if temporal == "block":
        return [ModuleUnit(name) for name in names]
    layers = temporal_layers(attached.adapter)
    module_units: list[Unit] = [ModuleUnit(name, layers) for name in names if name not in layers]
    return [TemporalUnit(layers), *module_units] if temporal == "joint" else module_units


def layers_of(attached: Attached, unit: Unit) -> dict[str, QuantMixin]:
    """The layers whose weight learns with the unit."""
    return {name: layer for name, layer in attached.layers().items() if unit.owns(f"{name}.weight_quantizer")}
