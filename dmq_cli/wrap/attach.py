"""Puts quantizers into a network, and opens the scopes in which they are on, off or watched."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dmq_cli.errors import SchemeError
from dmq_cli.models import Adapter, Site, sites
from dmq_cli.ops import PerTensor
from dmq_cli.quant import Nearest, PerStep, Split, Static, StepContext, TensorQuantizer, TimeGrid
from dmq_cli.wrap.attention import QuantAttention
from dmq_cli.wrap.layers import QuantMixin, with_quantizers
from dmq_cli.wrap.scheme import Scheme, Spec


@dataclass(frozen=True)
class Attached:
    """A network with quantizers. specs: how every site is quantized; grid: the timesteps that per-step tables know."""

    adapter: Adapter
    specs: dict[Site, Spec]
    context: StepContext
    grid: TimeGrid

    @property
    def model(self) -> nn.Module:
        return self.adapter.model

    def quantizers(self, *slots: str) -> dict[str, TensorQuantizer]:
        """Every quantizer of these slots (all without arguments) by its path; a split counts once for each part."""
        modules = {n: m for n, m in self.model.named_modules() if isinstance(m, (TensorQuantizer, Split))}
        found: dict[str, TensorQuantizer] = {}
        for site, spec in self.specs.items():
            if spec.quantized and (not slots or site.slot in slots):
                root = modules[site.name]
                parts = (
                    {f"{site.name}.parts.{i}": m for i, m in enumerate(root.parts)}
                    if isinstance(root, Split)
                    else {site.name: root}
                )
                found |= {name: m for name, m in parts.items() if isinstance(m, TensorQuantizer)}
        return found

    def weight_pieces(self) -> Iterator[tuple[str, TensorQuantizer, Tensor, Spec]]:
        """(path, quantizer, weight, specification) of every weight quantizer; a split gives one row for each part."""
        for site, spec in self.specs.items():
            if spec.quantized and site.slot == "weight":
                weight = self.model.get_submodule(site.module).weight
                quantizer = self.model.get_submodule(site.name)
                if isinstance(quantizer, Split):
                    for number, piece in enumerate(weight.split(quantizer.sizes, quantizer.dim)):  # type: ignore[operator]
                        yield f"{site.name}.parts.{number}", quantizer.parts[number], piece, spec  # type: ignore[misc]
                else:
                    yield site.name, quantizer, weight, spec  # type: ignore[misc]

    def units(self) -> list[str]:
        """`Adapter.units`, traced in full precision: no step is set here, and per-step quantizers would ask for one."""
        with quantizing(self, weights=False, activations=False):
            return self.adapter.units()

    def layers(self) -> dict[str, QuantMixin]:
        """Every layer that was replaced, by its path."""
        return {name: m for name, m in self.model.named_modules() if isinstance(m, QuantMixin)}


def attach(adapter: Adapter, scheme: Scheme, timesteps: Tensor) -> Attached:
    """Replace the layers of the network (in place) by quantized ones, with unit scales until ranges are fitted.

    timesteps: (S,) those the sampler visits; per-step scales get one row for each.
    """
    specs = scheme.resolve(sites(adapter))
    context, grid = StepContext(), TimeGrid(timesteps)
    splits = adapter.skip_splits()
    made = {
        (site.module, site.slot): _build(site, spec, adapter.model, splits, context, len(timesteps))
        for site, spec in specs.items()
    }
    for layer in adapter.layers():
        parent, _, child = layer.name.rpartition(".")
        twin = with_quantizers(
            adapter.model.get_submodule(layer.name), made[layer.name, "input"], made[layer.name, "weight"]
        )
        setattr(adapter.model.get_submodule(parent), child, twin)
    for attention in adapter.attentions():
        module = adapter.model.get_submodule(attention.name)
        for slot in ("q", "k", "v", "prob"):
            module.add_module(f"{slot}_quantizer", made[attention.name, slot])
        module.processor = QuantAttention(module.processor)  # type: ignore[arg-type, assignment]
    return Attached(adapter, specs, context, grid)


@contextlib.contextmanager
def quantizing(attached: Attached, *, weights: bool, activations: bool) -> Iterator[None]:
    """Inside, exactly these quantizers are on; afterwards each is as it was before."""
    weight, everything = attached.quantizers("weight"), attached.quantizers()
    states = {name: quantizer.enabled for name, quantizer in everything.items()}
    try:
        for name, quantizer in everything.items():
            quantizer.enabled = weights if name in weight else activations
        yield
    finally:
        for name, quantizer in everything.items():
            quantizer.enabled = states[name]


@contextlib.contextmanager
def observing(attached: Attached) -> Iterator[None]:
    """Inside, the network computes in full precision and every quantizer is called with what it would quantize."""
    processors = [attached.model.get_submodule(a.name).processor for a in attached.adapter.attentions()]
    try:
        for processor in processors:
            processor.observed = True  # type: ignore[union-attr]
        with quantizing(attached, weights=False, activations=False):
            yield
    finally:
        for processor in processors:
            processor.observed = False  # type: ignore[union-attr]


def bake(attached: Attached) -> None:
    """Quantize every weight once; sampling then costs what activations cost."""
    for layer in attached.layers().values():
        layer.bake()


def _build(
    site: Site, spec: Spec, model: nn.Module, splits: dict[str, tuple[int, int]], context: StepContext, steps: int
) -> nn.Module:
    if not spec.quantized:
        return nn.Identity()
    sizes = splits.get(site.module)
    if spec.split and sizes is None:
        raise SchemeError(
            f"The scheme splits {site.name}, but that layer reads no concatenation of a skip connection; narrow the rule, for example by part: up."
        )
    if not spec.split or sizes is None:
        return _quantizer(site, spec, model, context, steps)
    return Split(sizes, [_quantizer(site, spec, model, context, steps) for _ in sizes], dim=1)


def _quantizer(site: Site, spec: Spec, model: nn.Module, context: StepContext, steps: int) -> TensorQuantizer:
    grid = spec.grid(bits=spec.bits)
    if site.slot == "weight" and spec.per_step:
        raise SchemeError(
            f"The scheme asks for a scale for each step at {site.name}, but weights have no steps; match *.input."
        )
    if site.slot != "weight" and spec.granularity != PerTensor():
        raise SchemeError(
            f"The scheme asks for {spec.granularity} at {site.name}, but activations have one range for the whole tensor;"
            " match *.weight."
        )
    if site.slot == "weight":
        weight = model.get_parameter(f"{site.module}.weight")
        groups = spec.granularity.grouped(weight).shape[0]
        shape: tuple[int, ...] = spec.granularity.shape(weight.dim(), groups)
    else:
        shape = ()
    if spec.per_step:
        return TensorQuantizer(grid, PerStep(context, torch.ones(steps), torch.zeros(steps)), Nearest())
    return TensorQuantizer(grid, Static(torch.ones(shape), torch.zeros(shape)), Nearest())
