"""Short reconstructions of the small network, for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.quant import PerStepScale
from dmq_cli.recon import AdaRound, Pass, Quest, Reconstruction, Scales
from dmq_cli.wrap import Attached, QuantDenoiser, Rule, quantizing, state
from tests.tiny import SMALL, batches, data, network, scheme, wrapped

NUM = 8
SMALL_UNITS, SMALL_WEIGHTS, SMALL_ACTIVATIONS = 10, 25 + 2, 25 + 2 + 4  # two shortcuts are split, one attention
ACTIVATIONS = ("input", "q", "k", "v", "prob")
FEW = [  # what stays in full precision where five units are enough
    Rule("time.*", bits=32),
    *(Rule("resnet.*", part=part, bits=32) for part in ("down", "mid")),
]
FEW_UNITS = ["conv_in", "mid_block.attentions.0", "up_blocks.0.resnets.0", "up_blocks.0.resnets.1", "conv_out"]
PER_STEP = Rule("*.input", scale=PerStepScale())
ROUNDING, STEPS = AdaRound(lr=0.05), Scales(lr=4e-4, relative=False)
Losses = dict[str, list[float]]
Stop = Callable[[str, str], bool]


def small(*rules: Rule, weight: int = 3, act: int = 8, **changes: Any) -> Attached:
    return wrapped(scheme(*rules, weight=weight, act=act), **SMALL, **changes)


def few(*rules: Rule, **options: Any) -> Attached:
    """Only FEW_UNITS have quantizers."""
    return small(*rules, *FEW, **options)


def rows() -> Iterator[tuple[Tensor, Tensor]]:
    return batches(NUM, NUM)


def brecq(
    weights: int = 4, scales: int = 3, rounding: AdaRound = ROUNDING, steps: Scales = STEPS, **fields: Any
) -> Reconstruction:
    """Rounding first, then activation scales."""
    passes = {"weights": Pass(weights, rounding=rounding), "scales": Pass(scales, scales=steps, p=2.4)}
    return Reconstruction(passes, **{"batch_size": 4, **fields})


def joint(
    iterations: int = 2, temporal: Any = "block", seed: int = 0, batch_size: int = 4, **fields: Any
) -> Reconstruction:
    """Both together. fields: of the pass."""
    joint_pass = Pass(iterations, **{"rounding": ROUNDING, "scales": Scales(lr=0.01), **fields})
    return Reconstruction({"joint": joint_pass}, temporal=temporal, seed=seed, batch_size=batch_size)


def run(
    config: Reconstruction | Quest, attached: Attached, work: Path, stop: Stop | None = None, num: int = NUM, **more: Any
) -> dict[str, Losses]:  # fmt: skip
    """Losses by pass and unit, in order; what Quest does afterwards is the pass "quest". stop(pass, unit): kills the run."""
    passes = (config.base if isinstance(config, Quest) else config).passes
    names = {recon_pass.iterations: name for name, recon_pass in passes.items()}
    assert len(names) == len(passes), "told apart by their iterations"
    losses: dict[str, Losses] = {name: {} for name in passes}

    def report(unit: str, iteration: int, iterations: int, loss: float, **_: Any) -> None:
        name = names.get(iterations, "quest")
        history = losses.setdefault(name, {}).setdefault(unit, [])
        history.append(loss)
        assert len(history) == iteration
        if stop is not None and stop(name, unit):
            raise KeyboardInterrupt

    config.run(attached, lambda: batches(num, num), num, work, report, **more)
    return losses


def output_error(attached: Attached, activations: bool = False) -> float:
    sample, timestep = data(NUM)
    with quantizing(attached, weights=True, activations=activations):
        output = QuantDenoiser(attached)(sample, timestep)
    return float((output - network(**SMALL)(sample, timestep).sample).square().mean())


def assert_same(one: Attached, other: Attached) -> None:
    left, right = state(one), state(other)
    assert list(left) == list(right)
    assert [key for key in left if not torch.equal(left[key], right[key])] == []


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """Quantizers with a tensor that is new or different."""
    names = {key for key in after if key not in before or not torch.equal(after[key], before[key])}
    return {key.partition("_quantizer")[0] for key in names}
