"""A quantized network as integers: what an exported file holds, and the network that it gives back.

The tensors of the file, by the names that the network's own have:
* `<layer>.weight.codes` for each part of a quantized weight, packed (see bits.py), in place of `<layer>.weight`;
* everything else that the network has, biases and norms, as it samples with them;
* scale, zero_point and choices of every quantizer, `<site>.scale.scale` and so on; `<layer>.channel_scale` and branches of transforms;
* the timesteps of per-step tables.
The layout says of every site what its quantizer is (records.py). A weight comes back as (code - zero_point) * scale, which its quantizer
leaves as it is, so that the network computes what it computed before, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dmq_cli.deploy.bits import pack, unpack
from dmq_cli.deploy.records import Record, bits_of, built, record
from dmq_cli.errors import ArtifactCorruptError
from dmq_cli.models import Adapter, sites
from dmq_cli.quant import FullPrecision, StepContext, TensorQuantizer
from dmq_cli.wrap import (
    FULL_PRECISION,
    Attached,
    Spec,
    freeze,
    load_extra_state,
    load_quantizer_state,
    place,
    quantizer_state,
)

GRID = "time_grid.timesteps"
_CODES = "codes"
_EXTRAS = ("channel_scale", "branch_down", "branch_up")


def packed(attached: Attached) -> tuple[dict[str, Tensor], dict[str, Record]]:
    """Pack a quantized network: its tensors, and the record of each site that is quantized. Its scale sources are frozen.

    Raises ConfigError for quantizers that a file cannot describe.
    """
    freeze(attached)
    layout: dict[str, Record] = {
        site.name: record(attached.model.get_submodule(site.name))
        for site, spec in attached.specs.items()
        if spec.quantized
    }
    tensors = {GRID: attached.grid.timesteps.detach().clone(), **_plain(attached), **_codes(attached)}
    tensors |= {f"{name}.choice": choice.choice for name, choice in attached.choices().items()}
    state = quantizer_state(attached.quantizers())
    return tensors | {name: value for name, value in state.items() if not name.endswith(".rounding.up")}, layout


def _plain(attached: Attached) -> dict[str, Tensor]:
    """What no quantizer holds: parameters of the network, without quantized weights, and transforms' tensors."""
    names = tuple(f"{site.name}." for site in attached.specs)
    coded = {
        f"{site.module}.weight" for site, spec in attached.specs.items() if site.slot == "weight" and spec.quantized
    }
    tensors = {k: v for k, v in attached.model.state_dict().items() if not k.startswith(names) and k not in coded}
    for layer, module in attached.layers().items():
        tensors |= {f"{layer}.{name}": value for name, value in module.extras().items() if name in _EXTRAS}
    return tensors


def _codes(attached: Attached) -> dict[str, Tensor]:
    codes = {}
    with torch.no_grad():
        for path, quantizer, weight, _ in attached.weight_pieces():
            name = path.replace(".weight_quantizer", f".weight.{_CODES}", 1)
            codes[name] = pack((quantizer.codes(weight) - quantizer.grid.lo).round(), quantizer.bits)
    return codes


def plain_names(names: list[str]) -> list[str]:
    """The names that the tensors of a file have in the network they belong to, before it has quantizers."""
    marks = (f".weight.{_CODES}", "_quantizer.", *(f".{name}" for name in _EXTRAS))
    kept = [name for name in names if name != GRID and not any(mark in name or name.endswith(mark) for mark in marks)]
    return kept + sorted({name.split(f".{_CODES}")[0] for name in names if f".weight.{_CODES}" in name})


def plain_state(
    tensors: Mapping[str, Tensor], layout: Mapping[str, Record], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """The state of the network before it has quantizers, quantized weights as the numbers that their codes stand for.

    shapes: of the network's tensors. Raises ArtifactCorruptError for codes that do not fit them.
    """
    weights = {name for name in plain_names(list(tensors)) if name not in tensors}
    for name in weights:
        if name not in shapes or f"{name}_quantizer" not in layout:
            raise _misfit(name)
    state = {name: tensors[name] for name in plain_names(list(tensors)) if name in tensors}
    return state | {name: _weight(name, tensors, layout[f"{name}_quantizer"], shapes[name]) for name in sorted(weights)}


def _weight(name: str, tensors: Mapping[str, Tensor], description: Record, shape: tuple[int, ...]) -> Tensor:
    module = built(description, StepContext())
    parts = module.parts if "parts" in description else [module]
    sizes = description.get("split", [shape[1]])
    if sum(sizes) != shape[1]:
        raise _misfit(name)
    pieces = [
        _values(part, tensors, name, f".parts.{number}" if "parts" in description else "", (shape[0], size, *shape[2:]))
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True))  # type: ignore[arg-type]
    ]
    return torch.cat(pieces, 1)


def _values(part: nn.Module, tensors: Mapping[str, Tensor], name: str, suffix: str, shape: tuple[int, ...]) -> Tensor:
    """(code - zero_point) * scale of one part of a weight."""
    if not isinstance(part, TensorQuantizer):
        raise _misfit(name)
    layer = name.removesuffix(".weight")
    try:
        packed_codes = tensors[f"{name}.{_CODES}{suffix}"]
        scale, zero_point = (
            tensors[f"{layer}.weight_quantizer{suffix}.scale.{kind}"] for kind in ("scale", "zero_point")
        )
    except KeyError as error:
        raise _misfit(name) from error
    codes = unpack(packed_codes, part.bits, shape).to(scale.dtype) + part.grid.lo
    return (codes - zero_point) * scale


def unpacked(adapter: Adapter, tensors: Mapping[str, Tensor], layout: Mapping[str, Record]) -> Attached:
    """Put the quantizers of a file into a network (in place) that has its `plain_state` already.

    Raises ArtifactCorruptError for a layout or tensors that do not fit the network.
    """
    network_sites = sites(adapter)
    if unknown := sorted(set(layout) - {site.name for site in network_sites}):
        raise _misfit(unknown[0])
    context, dtype = StepContext(), next(adapter.model.parameters()).dtype
    quantizers = {
        site: built(layout[site.name], context).to(dtype) if site.name in layout else FullPrecision()
        for site in network_sites
    }
    specs = {
        site: Spec(bits=bits_of(layout[site.name]) if site.name in layout else FULL_PRECISION) for site in network_sites
    }
    if GRID not in tensors or tensors[GRID].ndim != 1:
        raise _misfit(GRID)
    attached = place(adapter, specs, quantizers, context, tensors[GRID])
    _load_extras(attached, tensors)
    for name, choice in attached.choices().items():
        stored = tensors.get(f"{name}.choice")
        if stored is None or stored.shape != choice.choice.shape:
            raise _misfit(f"{name}.choice")
        choice.choice.copy_(stored)
    names = tuple(f"{name}." for name in attached.quantizers())
    load_quantizer_state(
        attached.quantizers(),
        {name: value for name, value in tensors.items() if name.startswith(names) and not name.endswith(".choice")},
    )
    return attached


def _load_extras(attached: Attached, tensors: Mapping[str, Tensor]) -> None:
    """Load transforms' tensors; the weights of such layers are transformed already."""
    extras = {name: value for name, value in tensors.items() if name.rpartition(".")[2] in _EXTRAS}
    tuned = {f"{name.rpartition('.')[0]}.tuned" for name in extras}
    layers = attached.layers()
    weights = {
        name: layers[name.removesuffix(".tuned")].weight for name in tuned if name.removesuffix(".tuned") in layers
    }
    load_extra_state(attached, {**extras, **weights})


def _misfit(name: str) -> ArtifactCorruptError:
    return ArtifactCorruptError(
        f"An exported file does not fit the network that its config.json describes ({name}); export it again."
    )
