"""Put quantizers into a network, and open the scopes in which they are on, off or observed."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dmq_cli.models import Adapter, Site, check_attentions, run_once, sites
from dmq_cli.quant import TRAINING_TIMESTEPS, Choice, StepContext, TensorQuantizer, TimeGrid, site_quantizer, source_of
from dmq_cli.wrap.attention import QuantAttention
from dmq_cli.wrap.build import Maker
from dmq_cli.wrap.layers import QuantMixin, with_quantizers
from dmq_cli.wrap.saving import keep_quantizers
from dmq_cli.wrap.scheme import Scheme, Spec
from dmq_cli.wrap.trained import Trained


@dataclass(frozen=True)
class Attached:
    """A network with quantizers. specs: how every site is quantized; grid: the timesteps of per-step tables; trained: what training
    changed besides."""

    adapter: Adapter
    specs: dict[Site, Spec]
    context: StepContext
    grid: TimeGrid
    trained: Trained = field(default_factory=Trained)

    @property
    def model(self) -> nn.Module:
        """The network, with its quantizers in it."""
        return self.adapter.model

    @contextlib.contextmanager
    def at(self, timestep: Tensor) -> Iterator[None]:
        """The scope in which the network runs at these timesteps, () or (B,)."""
        with self.context.at(self.grid(timestep), timestep.reshape(-1)):
            yield

    def quantizers(self, *slots: str) -> dict[str, TensorQuantizer]:
        """Every quantizer of these slots (all without arguments) by its path; each part of a split or choice counts."""
        return {
            path: m for path, m, slot in self._all if isinstance(m, TensorQuantizer) and (not slots or slot in slots)
        }

    def choices(self) -> dict[str, Choice]:
        """Every choice by its path."""
        return {path: m for path, m, _ in self._all if isinstance(m, Choice)}

    def spec(self, path: str) -> Spec:
        """The specification of the site that a quantizer belongs to."""
        return {site.name: spec for site, spec in self.specs.items()}[path.split(".parts.")[0]]

    def weight_pieces(self) -> Iterator[tuple[str, TensorQuantizer, Tensor, Spec]]:
        """(path, quantizer, weight, specification) of every weight quantizer; a split gives one row for each part.

        The weight is what is quantized: transformed or fine-tuned where the layer is.
        """
        layers = self.layers()
        for name, root, site in self._roots("weight"):
            weight, spec = layers[site.module].latent_weight().detach(), self.specs[site]
            parts = [(path, m) for path, m in _parts(name, root) if isinstance(m, TensorQuantizer)]
            for (path, quantizer), piece in zip(parts, site_quantizer(root).pieces(weight), strict=True):
                yield path, quantizer, piece, spec

    def units(self) -> list[str]:
        """`Adapter.units`, traced in full precision: per-step quantizers would need a step, and none is set."""
        with quantizing(self, weights=False, activations=False):
            return self.adapter.units()

    def layers(self) -> dict[str, QuantMixin]:
        """Every quantized layer, by its path."""
        return dict(self._layers)

    @functools.cached_property
    def _layers(self) -> dict[str, QuantMixin]:
        return {name: m for name, m in self.model.named_modules() if isinstance(m, QuantMixin)}

    @functools.cached_property
    def _all(self) -> list[tuple[str, nn.Module, str]]:
        """Every quantizer, split and choice with its path and slot; these objects are never replaced."""
        return [(path, m, site.slot) for name, root, site in self._roots() for path, m in _parts(name, root)]

    def _roots(self, *slots: str) -> Iterator[tuple[str, nn.Module, Site]]:
        for site, spec in self.specs.items():
            if spec.quantized and (not slots or site.slot in slots):
                yield site.name, self.model.get_submodule(site.name), site


def _parts(path: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the quantizer of a site and all its parts."""
    yield path, module
    for number, part in enumerate(site_quantizer(module).parts):
        yield from _parts(f"{path}.parts.{number}", part)


def attach(adapter: Adapter, scheme: Scheme, timesteps: Tensor, total: int = TRAINING_TIMESTEPS) -> Attached:
    """Replace the layers of the network (in place) by quantized ones, with unit scales until ranges are fitted.

    timesteps: (S,) those the sampler visits; per-step scales get one row for each. total: timesteps that the network was trained at.
    Raises ModelError for a network that, in one call, computes attention in a module that gets no quantizers.
    """
    check_attentions(adapter, lambda: run_once(adapter))
    specs = scheme.resolve(sites(adapter))
    context = StepContext()
    maker = Maker(adapter.model, adapter.skip_splits(), context, timesteps, total)
    return place(adapter, specs, {site: maker.build(site, spec) for site, spec in specs.items()}, context, timesteps)


def place(
    adapter: Adapter, specs: dict[Site, Spec], quantizers: Mapping[Site, nn.Module], context: StepContext, timesteps: Tensor
) -> Attached:  # fmt: skip
    """Put a quantizer at every site of the network (in place). context: of those whose scales vary; timesteps: (S,) of their rows."""
    places = {(site.module, site.slot): quantizer for site, quantizer in quantizers.items()}
    for layer in adapter.layers():
        parent, _, child = layer.name.rpartition(".")
        twin = with_quantizers(
            adapter.model.get_submodule(layer.name), places[layer.name, "input"], places[layer.name, "weight"]
        )
        setattr(adapter.model.get_submodule(parent), child, twin)
    for attention in adapter.attentions():
        module = adapter.model.get_submodule(attention.name)
        for slot in ("q", "k", "v", "prob"):
            module.add_module(f"{slot}_quantizer", places[attention.name, slot])
        module.processor = QuantAttention(module.processor)  # type: ignore[arg-type, assignment]
    keep_quantizers(adapter.model, [adapter.model.get_submodule(attention.name) for attention in adapter.attentions()])
    return Attached(adapter, specs, context, TimeGrid(timesteps))


@contextlib.contextmanager
def quantizing(attached: Attached, *, weights: bool, activations: bool) -> Iterator[None]:
    """Inside, exactly these quantizers are on; afterwards each is as it was before.

    Without quantized weights the network has the parameters that it had before training.
    """
    weight, everything = attached.quantizers("weight"), attached.quantizers()
    states = {name: quantizer.enabled for name, quantizer in everything.items()}
    try:
        for name, quantizer in everything.items():
            quantizer.enabled = weights if name in weight else activations
        with attached.trained.showing(weights):
            yield
    finally:
        for name, quantizer in everything.items():
            quantizer.enabled = states[name]


@contextlib.contextmanager
def observing(attached: Attached, *, weights: bool = False) -> Iterator[None]:
    """Inside, the network computes in full precision, or with quantized weights, and every quantizer is called with the tensor it would quantize."""
    processors = [attached.model.get_submodule(a.name).processor for a in attached.adapter.attentions()]
    try:
        for processor in processors:
            processor.observed = True  # type: ignore[union-attr]
        with quantizing(attached, weights=weights, activations=False):
            yield
    finally:
        for processor in processors:
            processor.observed = False  # type: ignore[union-attr]


def bake(attached: Attached) -> None:
    """Quantize every weight once, so that sampling only quantizes activations."""
    for layer in attached.layers().values():
        layer.bake()


@torch.no_grad()
def freeze(attached: Attached) -> None:
    """Replace scale sources by ones without computation while sampling: networks of scales (TDQ) by their tables."""
    for quantizer in attached.quantizers().values():
        quantizer.scale = source_of(quantizer).frozen()
