"""Every grid with every scale source and every rounding: it works like plain arithmetic, or is refused."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.quant import (
    Dynamic,
    FixedRound,
    Grid,
    Intervals,
    Log2,
    Nearest,
    PerStep,
    SignRound,
    SoftRound,
    Static,
    StepContext,
    StepMLP,
    TensorQuantizer,
    Uniform,
)

Array = npt.NDArray[np.float64]
X = torch.rand(3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 - 1
STEPS = torch.tensor([1, 4, 4])
TIMES = torch.tensor([200, 700, 750])  # of six equal intervals those with the same numbers
CONTEXT = StepContext()
LOW, HIGH = np.linspace(-0.5, -1.2, 6), np.linspace(1.1, 2.2, 6)

GRIDS: dict[str, Callable[[], Grid]] = {
    "uniform": lambda: Uniform(4),
    "symmetric": lambda: Uniform(4, symmetric=True),
    "from_zero": lambda: Uniform(8, from_zero=True),
    "log2": lambda: Log2(3),
}


def pair(grid: Grid, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    scale, zero_point = grid.parameters(torch.from_numpy(LOW), torch.from_numpy(HIGH))
    count = int(np.prod(shape))
    return scale[:count].reshape(shape), zero_point[:count].reshape(shape)


SCALES: dict[str, Callable[[Grid], nn.Module]] = {
    "tensor": lambda grid: Static(*pair(grid, ())),
    "channel": lambda grid: Static(*pair(grid, (3, 1, 1))),
    "learned": lambda grid: Static(*pair(grid, ()), learn=True),
    "steps": lambda grid: PerStep(CONTEXT, *pair(grid, (6,))),
    "learned_steps": lambda grid: PerStep(CONTEXT, *pair(grid, (6,)), learn=True),
    "intervals": lambda grid: Intervals(CONTEXT, *pair(grid, (6,))),
    "mlp": lambda grid: network(*pair(grid, ())),
    "dynamic": lambda grid: Dynamic(grid),
}


def network(scale: Tensor, zero_point: Tensor) -> StepMLP:
    source = StepMLP(CONTEXT).double()
    source.fill(scale, zero_point)
    return source


def hardened(u: Tensor) -> SoftRound:
    rounding = SoftRound(u)
    rounding.hard = True
    return rounding


ROUNDINGS: dict[str, Callable[[Tensor], nn.Module]] = {
    "nearest": lambda u: Nearest(),
    "soft": SoftRound,
    "hard": hardened,
    "sign": SignRound,
    "fixed": lambda u: FixedRound(u % 1 > 0.3),
}
ALL = list(itertools.product(GRIDS, SCALES, ROUNDINGS))


def build(grid_name: str, scale_name: str, rounding_name: str) -> TensorQuantizer:
    grid = GRIDS[grid_name]()
    source = SCALES[scale_name](grid)
    with CONTEXT.at(STEPS, TIMES):
        scale, _ = source(X)
    return TensorQuantizer(grid, source, ROUNDINGS[rounding_name]((X / scale).detach()))


def makes_sense(grid: str, scale: str, rounding: str) -> bool:
    return rounding == "nearest" or (grid != "log2" and scale in ("tensor", "channel", "learned"))


ACCEPTED = [names for names in ALL if makes_sense(*names)]


def reference(grid_name: str, scale_name: str, rounding_name: str) -> Array:
    """The whole product once more, in numpy and without the parts under test."""
    x = X.numpy()
    lo, hi = {"uniform": (0, 15), "symmetric": (-8, 7), "from_zero": (0, 255), "log2": (0, 7)}[grid_name]
    steps = {name: [1, 4, 4] for name in ("steps", "learned_steps", "intervals")}
    picked = {"channel": [0, 1, 2], **steps}.get(scale_name, [0])
    low, high = LOW[picked], HIGH[picked]
    if scale_name == "dynamic":
        low, high = x.min((1, 2)), x.max((1, 2))
    low, high = low.reshape(-1, 1, 1), high.reshape(-1, 1, 1)
    if grid_name == "log2":
        with np.errstate(divide="ignore", invalid="ignore"):
            exponent = np.where(x > 0, np.round(-np.log2(np.maximum(x, 0) / high)), np.inf)
        return np.where(exponent > hi - 1, 0.0, high * 2.0 ** -np.maximum(exponent, 0))
    scale, zero = (high - low) / hi, 0.0 * low
    if grid_name == "uniform":
        zero = np.round(-low / scale)
    else:
        scale = np.maximum(-low, high) / hi if grid_name == "symmetric" else high / hi
    u = x / scale
    rounded = dict.fromkeys(("nearest", "hard", "sign"), np.round(u))
    rounded |= {"soft": u, "fixed": np.floor(u) + (u % 1 > 0.3)}
    return np.asarray((np.clip(rounded[rounding_name] + zero, lo, hi) - zero) * scale)


def test_the_product_is_counted() -> None:
    refused = set(ALL) - set(ACCEPTED)
    assert (len(ALL), len(ACCEPTED), len(refused)) == (160, 68, 92)
    for names in refused:
        with pytest.raises(
            ConfigError, match=r"combine (SoftRound|SignRound|FixedRound) with .*; learned rounding needs"
        ):
            build(*names)


@pytest.mark.parametrize("names", ACCEPTED, ids="-".join)
def test_value_shape_dtype_and_codes(names: tuple[str, str, str]) -> None:
    quantizer = build(*names)
    with CONTEXT.at(STEPS, TIMES):
        y, codes = quantizer(X), quantizer.codes(X)
        with torch.no_grad():
            assert torch.equal(quantizer(X), y)
    assert y.shape == X.shape and y.dtype == torch.float64
    np.testing.assert_allclose(y.detach(), reference(*names), atol=1e-6 if names[2] == "soft" else 1e-12)
    assert codes.shape == X.shape and codes.min() >= quantizer.grid.lo and codes.max() <= quantizer.grid.hi
    assert names[2] == "soft" or torch.equal(codes, codes.round())
    quantizer.enabled = False
    assert quantizer(X) is X


@pytest.mark.parametrize("names", ACCEPTED, ids="-".join)
def test_state_dict_round_trip_and_deepcopy(names: tuple[str, str, str]) -> None:
    quantizer = build(*names)
    other = copy.deepcopy(quantizer)
    if isinstance(other.scale, PerStep | StepMLP):
        other.scale.context = CONTEXT
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(quantizer.state_dict())
    with CONTEXT.at(STEPS, TIMES):
        assert torch.equal(other(X), quantizer(X))
    assert all(isinstance(value, Tensor) for value in quantizer.state_dict().values())


# networks of the timestep take long to compile: see test_step_mlp.py
@pytest.mark.parametrize("names", [names for names in ACCEPTED if names[1] != "mlp"], ids="-".join)
def test_compiled_is_eager(names: tuple[str, str, str]) -> None:
    quantizer = build(*names)
    torch._dynamo.reset()
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True)
    learned = any(p.requires_grad for p in quantizer.parameters())
    for gradients in {False, learned}:
        with CONTEXT.at(STEPS, TIMES), torch.set_grad_enabled(gradients):
            assert torch.equal(compiled(X), quantizer(X))


@pytest.mark.parametrize("names", [("uniform", "learned", "nearest"), ("symmetric", "channel", "soft")])
def test_compiled_gradients_are_eager_gradients(names: tuple[str, str, str]) -> None:
    quantizer = build(*names)
    eager = torch.autograd.grad(quantizer(X).pow(2).sum(), [p for p in quantizer.parameters() if p.requires_grad])
    compiled = torch.compile(quantizer, backend="aot_eager", fullgraph=True)
    again = torch.autograd.grad(compiled(X).pow(2).sum(), [p for p in quantizer.parameters() if p.requires_grad])
    assert len(eager) == 1 and torch.allclose(eager[0], again[0], rtol=1e-12)


def test_one_graph_serves_all_steps() -> None:
    quantizer = build("uniform", "steps", "nearest")
    torch._dynamo.reset()
    graphs = 0

    def count(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        nonlocal graphs
        graphs += 1
        return module.forward

    compiled = torch.compile(quantizer, backend=count, fullgraph=True)
    with torch.no_grad():
        for step in range(6):
            with CONTEXT.at(torch.tensor([step])):
                assert torch.equal(compiled(X), quantizer(X))
    assert graphs == 1


def test_the_quantizer_says_its_bits_and_wants_one_grid() -> None:
    assert build("log2", "tensor", "nearest").bits == 3
    assert "Uniform(bits=4" in repr(build("uniform", "tensor", "nearest"))
    with pytest.raises(ConfigError, match=r"Uniform\(bits=8.*Dynamic scales for Uniform\(bits=4.*same grid"):
        TensorQuantizer(Uniform(8), Dynamic(Uniform(4)), Nearest())
