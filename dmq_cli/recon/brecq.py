"""Block-wise reconstruction.

Li et al.: BRECQ, ICLR 2021 (arXiv 2102.05426), with AdaRound's learned rounding (Nagel et al., ICML 2020, arXiv 2004.10568,
eq. 21-25), as Q-Diffusion (Li et al., ICCV 2023) uses it: units in execution order, weights first, then activation scales.
Deliberate deviations from the released code (Xiuyu-Li/q-diffusion @ 715783d): the network stays in eval mode (no dropout); units come
in execution order, not in that of named_children; both halves of a split are regularised; the activation stage reads inputs
from the quantized predecessors, as the paper words it, not from the full-precision network.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dmq_cli.errors import NumericsError
from dmq_cli.quant import SoftRound, TensorQuantizer
from dmq_cli.recon.capture import Batches, Captured, call, capture
from dmq_cli.recon.losses import beta_schedule, lp_loss
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.wrap import Attached, bake, load_quantizer_state, quantizer_state, quantizing

Report = Callable[[str, int, int, float], None]
_ACTIVATIONS = ("input", "q", "k", "v", "prob")


@dataclass(frozen=True)
class Brecq:
    """Hyper-parameters: iterations and learning rates for weights (rounding) and activations (scales).

    num_samples: calibration samples used (None: all). warmup: fraction of the iterations without regulariser.
    """

    weight_iterations: int = 20_000
    act_iterations: int = 5_000
    num_samples: int | None = None
    batch_size: int = 32
    weight_lr: float = 1e-3
    act_lr: float = 4e-4
    regulariser: float = 0.01
    warmup: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)
    weight_p: float = 2.0
    act_p: float = 2.4
    seed: int = 0

    def run(self, attached: Attached, data: Batches, num: int, work: Path, report: Report) -> None:
        """Learn rounding, then activation scales, unit by unit, in place.

        data gives batches of (sample, timestep), num rows in all. report(unit, iteration, iterations, loss) is called at
        every iteration. A finished unit is saved in `work`: a second call after a kill goes on with the next one and
        ends in the same bytes. Raises NumericsError if a loss diverges.
        """
        _reconstruct(Setting(self, attached, data, num, work, report))


@dataclass(frozen=True)
class NoReconstruction:
    """Keeps rounding to nearest and the calibrated ranges."""

    num_samples: int | None = None

    def run(self, attached: Attached, data: Batches, num: int, work: Path, report: Report) -> None:
        """Nothing to learn."""


@dataclass(frozen=True)
class Setting:
    """What the reconstructions of all units share."""

    config: Brecq
    attached: Attached
    data: Batches
    num: int
    work: Path
    report: Report


def _reconstruct(setting: Setting) -> None:
    attached = setting.attached
    units = attached.units()
    bake(attached)
    for stage, slots, learn in (
        ("weights", ("weight",), _learn_rounding),
        ("activations", _ACTIVATIONS, _learn_scales),
    ):
        for index, unit in enumerate(units):
            chosen = {n: q for n, q in attached.quantizers(*slots).items() if n.startswith(f"{unit}.")}
            done = setting.work / f"tmp-{stage}-{index:03d}.safetensors"
            if done.exists():
                load_quantizer_state(chosen, load_tensors(done))
            elif chosen:
                learn(setting, index, unit, chosen)
                save_tensors(done, quantizer_state(chosen), {"unit": unit})
            _bake_unit(attached, unit)


def _learn_rounding(setting: Setting, index: int, unit: str, chosen: Mapping[str, TensorQuantizer]) -> None:
    """AdaRound on every weight of the unit: minimise eq. 25 of Nagel et al. over all of them together."""
    config, attached = setting.config, setting.attached
    captured = capture(attached, unit, setting.data, setting.num, setting.work / "tmp-capture", activations=False)
    soft = _soften(attached, chosen)
    optimizer = torch.optim.Adam([rounding.alpha for rounding in soft.values()], lr=config.weight_lr)
    total = config.weight_iterations
    _bake_unit(attached, unit, drop=True)
    with quantizing(attached, weights=True, activations=False), torch.enable_grad():
        for iteration, rows in enumerate(_draws(config, index, total, setting.num)):
            loss = _error(attached, unit, captured, rows, config.weight_p)
            beta = beta_schedule(iteration, total, config.warmup, *config.beta)
            if beta is not None:
                loss = loss + config.regulariser * torch.stack([r.regulariser(beta) for r in soft.values()]).sum()
            setting.report(unit, iteration + 1, total, _descend(optimizer, loss, unit))
    for name, rounding in soft.items():
        chosen[name].rounding = rounding.frozen()


def _learn_scales(setting: Setting, index: int, unit: str, chosen: Mapping[str, TensorQuantizer]) -> None:
    """Gradient descent on the activation scales of the unit; zero points stay."""
    config, attached = setting.config, setting.attached
    captured = capture(attached, unit, setting.data, setting.num, setting.work / "tmp-capture", activations=True)
    scales = [quantizer.scale.get_parameter("scale").requires_grad_(True) for quantizer in chosen.values()]
    optimizer = torch.optim.Adam(scales, lr=config.act_lr)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, config.act_iterations))
    with quantizing(attached, weights=True, activations=True), torch.enable_grad():
        for iteration, rows in enumerate(_draws(config, 10_000 + index, config.act_iterations, setting.num)):
            loss = _descend(optimizer, _error(attached, unit, captured, rows, config.act_p), unit)
            decay.step()
            _keep_positive(scales)
            setting.report(unit, iteration + 1, config.act_iterations, loss)
    for scale in scales:
        scale.requires_grad_(False)


@torch.no_grad()
def _keep_positive(scales: list[Tensor]) -> None:
    for scale in scales:
        scale.clamp_(min=1e-8)


def _error(attached: Attached, unit: str, captured: Captured, rows: Tensor, p: float) -> Tensor:
    inputs, target, timesteps = captured.batch(rows)
    with attached.context.at(attached.grid(timesteps)):
        return lp_loss(call(attached.model.get_submodule(unit), inputs), target, p)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor, unit: str) -> float:
    value = float(loss.detach())
    if not math.isfinite(value):
        raise NumericsError(f"Reconstructing {unit} ended in a loss of {value}; lower recon.weight_lr or recon.act_lr.")
    optimizer.zero_grad(set_to_none=True)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return value


def _draws(config: Brecq, index: int, iterations: int, num: int) -> Iterator[Tensor]:
    """Row numbers of every iteration: a function of seed and unit only, so that a resumed run draws the same."""
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + index)
    for _ in range(iterations):
        yield torch.randperm(num, generator=generator)[: config.batch_size]


def _soften(attached: Attached, chosen: Mapping[str, TensorQuantizer]) -> dict[str, SoftRound]:
    """Give every weight quantizer its learned rounding, starting at the full-precision weight."""
    made = {}
    for name, quantizer, weight, _ in attached.weight_pieces():
        if name in chosen:
            scale, _ = quantizer.scale(weight)
            made[name] = SoftRound(weight.detach() / scale)
            quantizer.rounding = made[name]
    return made


def _bake_unit(attached: Attached, unit: str, drop: bool = False) -> None:
    for name, layer in attached.layers().items():
        if f"{name}.".startswith(f"{unit}."):
            layer.baked = None
            if not drop:
                layer.bake()
