"""Build the quantizer of a site from its specification."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from dmq_cli.errors import SchemeError
from dmq_cli.models import Site
from dmq_cli.ops import PerChannel, PerInputChannel, PerTensor
from dmq_cli.quant import (
    TRAINING_TIMESTEPS,
    Choice,
    FullPrecision,
    Grid,
    Nearest,
    Slot,
    Split,
    StepContext,
    TensorQuantizer,
)
from dmq_cli.wrap.scheme import Spec


@dataclass(frozen=True)
class Maker:
    """Builds the quantizers of a network. splits: see `Adapter.skip_splits`; timesteps: (S,) of the sampler; total: of training."""

    model: nn.Module
    splits: dict[str, tuple[int, int]]
    context: StepContext
    timesteps: Tensor
    total: int = TRAINING_TIMESTEPS

    def build(self, site: Site, spec: Spec) -> nn.Module:
        """Build the quantizer of a site, or FullPrecision. Raises SchemeError for a specification that the site cannot have."""
        if not spec.quantized:
            return FullPrecision()
        _check(site, spec)
        sizes = self.splits.get(site.module)
        if not spec.split:
            return self._chosen(site, spec, None)
        if sizes is None:
            raise SchemeError(
                f"The scheme splits {site.name}, but that layer reads no concatenation of a skip connection; narrow the rule, for example by part: up."
            )
        return Split(sizes, [self._chosen(site, spec, size) for size in sizes], dim=1)

    def _chosen(self, site: Site, spec: Spec, size: int | None) -> nn.Module:
        grid = spec.grid(bits=spec.bits)
        if spec.choice is None:
            return self._quantizer(site, spec, grid, size)
        parts = [self._quantizer(site, spec, part_grid, size) for part_grid in spec.choice.grids(grid)]
        return Choice(self.context, spec.choice, parts, len(self.timesteps))

    def _quantizer(self, site: Site, spec: Spec, grid: Grid, size: int | None) -> TensorQuantizer:
        ends = "scale" if site.slot == "weight" else spec.range
        slot = Slot(grid, self.context, self.timesteps, self._shape(site, spec, size), ends, self.total)
        return TensorQuantizer(grid, spec.scale.build(slot), Nearest())

    def _shape(self, site: Site, spec: Spec, size: int | None) -> tuple[int, ...]:
        """The shape of one row of scales. size: input channels of the part, where the site is split."""
        if isinstance(spec.granularity, PerTensor) and site.slot != "weight":
            return ()
        weight = self.model.get_parameter(f"{site.module}.weight")[:, :size]
        if isinstance(spec.granularity, PerInputChannel):
            if weight.dim() == 3:
                raise SchemeError(
                    f"The scheme asks for PerInputChannel at {site.name}, but (B, C, N) of a Conv1d looks like (B, N, C);"
                    " leave granularity at PerTensor there."
                )
            return spec.granularity.shape(weight.dim(), weight.shape[1])
        return spec.granularity.shape(weight.dim(), spec.granularity.grouped(weight).shape[0])


def _check(site: Site, spec: Spec) -> None:
    weight = site.slot == "weight"
    if weight and (spec.scale.varies or spec.choice is not None):
        raise SchemeError(
            f"The scheme asks for scales that change from step to step at {site.name}, but weights have no steps; match *.input."
        )
    if weight and isinstance(spec.granularity, PerInputChannel):
        raise SchemeError(
            f"The scheme asks for PerInputChannel at {site.name}, which is for inputs; use PerChannel for weights."
        )
    if isinstance(spec.granularity, PerChannel) and not weight:
        raise SchemeError(
            f"The scheme asks for {spec.granularity} at {site.name}, but activations have one range for the whole tensor,"
            " or PerInputChannel; match *.weight."
        )
    if isinstance(spec.granularity, PerInputChannel) and site.slot != "input":
        raise SchemeError(
            f"The scheme asks for PerInputChannel at {site.name}, but only inputs of layers have channels; match *.input."
        )
