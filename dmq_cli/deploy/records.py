"""What a quantizer is, as plain data: written into exported files, and read from them without any class being named.

{"grid": "uniform", "bits": 4, "scale": "per_step"} is one quantizer; {"split": [64, 64], "parts": [...]} several side by side;
{"choice": true, "parts": [...]} one for each step. Only what sampling needs: learned roundings are codes by then, and networks of the
timestep are tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from dmq_cli.errors import ArtifactCorruptError, ConfigError
from dmq_cli.quant import (
    ByLikelihood,
    Choice,
    Dynamic,
    Grid,
    Intervals,
    Log2,
    Nearest,
    PerStep,
    Split,
    Static,
    StepContext,
    TensorQuantizer,
    Uniform,
)

Record = Mapping[str, Any]
_GRIDS: Mapping[str, type[Any]] = {"uniform": Uniform, "log2": Log2}
_SCALES = {Static: "static", PerStep: "per_step", Intervals: "intervals", Dynamic: "dynamic"}
_LONGEST = 1 << 16


def record(module: nn.Module) -> dict[str, Any]:
    """Describe what stands at a site. Raises ConfigError for a part of a class that is not dmq's own."""
    if isinstance(module, Split):
        return {"split": list(module.sizes), "dim": module.dim, "parts": [record(part) for part in module.parts]}
    if isinstance(module, Choice):
        return {"choice": len(module.choice), "parts": [record(part) for part in module.parts]}
    if isinstance(module, TensorQuantizer) and type(module.scale) in _SCALES and type(module.grid) in _GRIDS.values():
        return {**_grid_record(module.grid), **_scale_record(module.scale)}
    inner = f" of {type(module.grid).__name__} and {type(module.scale).__name__}" if isinstance(module, TensorQuantizer) else ""  # fmt: skip
    raise ConfigError(
        f"A network was to be exported with a {type(module).__name__}{inner}, which exported files cannot describe; use dmq's own quantizers."
    )


def _grid_record(grid: Grid) -> dict[str, Any]:
    name = next(name for name, kind in _GRIDS.items() if type(grid) is kind)
    return {"grid": name, **{key: value for key, value in asdict(grid).items() if value}}  # type: ignore[call-overload]


def _scale_record(scale: nn.Module) -> dict[str, Any]:
    more = {"total": scale.total} if isinstance(scale, Intervals) else {}
    shape = {} if isinstance(scale, Dynamic) else {"shape": list(scale.scale.shape)}  # type: ignore[arg-type]
    return {"scale": _SCALES[type(scale)], **shape, **more}


def built(description: Record, context: StepContext) -> nn.Module:
    """Build what `record` described, with unit scales. Raises ArtifactCorruptError for anything else, before memory is taken for it."""
    try:
        return _built(description, context)
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise ArtifactCorruptError(
            f"An exported file describes a quantizer that this version of dmq does not know ({error!r}); export it again, or"
            " use the version that wrote it."
        ) from error


def _built(description: Record, context: StepContext) -> nn.Module:
    if "split" in description:
        parts = [_built(part, context) for part in description["parts"]]
        return Split(tuple(int(size) for size in description["split"]), parts, int(description["dim"]))
    if "choice" in description:
        return Choice(
            context,
            ByLikelihood(),
            [_built(part, context) for part in description["parts"]],
            _size(description["choice"]),
        )
    grid = _grid(description)
    return TensorQuantizer(grid, _scale(description, grid, context), Nearest())


def _grid(description: Record) -> Grid:
    kind = _GRIDS[description["grid"]]
    names = ("bits", "symmetric", "from_zero", "narrow")
    grid: Grid = kind(**{name: description[name] for name in names if name in description})
    return grid


def _scale(description: Record, grid: Grid, context: StepContext) -> nn.Module:
    makers: Mapping[str, Callable[[Tensor, Tensor], nn.Module]] = {
        "static": Static,
        "per_step": lambda scale, zero_point: PerStep(context, scale, zero_point),
        "intervals": lambda scale, zero_point: Intervals(context, scale, zero_point, int(description["total"])),
    }
    if description["scale"] == "dynamic":
        return Dynamic(grid)
    shape = [_size(size) for size in description["shape"]]
    return makers[description["scale"]](torch.ones(shape), torch.zeros(shape))


def _size(value: Any) -> int:
    if type(value) is not int or not 0 < value <= _LONGEST:
        raise ValueError(f"{value!r} is no size")
    return value


def bits_of(description: Record) -> int:
    """The widest codes of a quantizer and its parts, in bits."""
    return max(map(bits_of, description["parts"])) if "parts" in description else int(description["bits"])
