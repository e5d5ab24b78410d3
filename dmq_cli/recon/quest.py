"""Selective fine-tuning of the layers that suffer most: temporal and attention layers, and the activation scales.

Wang et al.: QuEST: Low-bit Diffusion Model Quantization via Efficient Selective Finetuning, ICCV 2025 (arXiv:2402.03666).
Implemented: after a reconstruction, first the layers of the timestep embedding and its projections learn weights and activation
scales against their own outputs and the network's (L_TLA + L_G), then the attention layers' weights and all other activation scales
against the network's output (L_G). Weights start where they were, with their learned rounding, not at their quantized values.
Compared with hatchetProject/QuEST @ a357018, of which recon=quest_sd, quest_imagenet and quest_lsun have the layers, losses and learning
rates of its three scripts. By default instead: all projections of attentions learn in the second stage, where Stable Diffusion's
script has the feed-forward layers alone; the two layers that embed the timestep learn, which it never tunes; the network's loss
counts once, not once for every tuned layer; learning rates of scales are relative to their size.
Deliberate deviations of all: batches mix timesteps, where the released code goes through them one after the other with a new
optimiser of the scales each; biases stay, which learn there with their weights; eval mode.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from dmq_cli.errors import ConfigError
from dmq_cli.models import Call, Cond, device_of, fits
from dmq_cli.quant import FixedRound, Nearest, TensorQuantizer
from dmq_cli.recon.calls import Batches, joined, rows_of
from dmq_cli.recon.curves import Curve, save_curve
from dmq_cli.recon.fine import outputs_of
from dmq_cli.recon.learners import Learner, TunedWeights
from dmq_cli.recon.learning import LossReport, descend, draws, placed
from dmq_cli.recon.method import Refit, Targets
from dmq_cli.recon.passes import ACTIVATIONS
from dmq_cli.recon.reconstruction import Reconstruction
from dmq_cli.recon.scales import Scales
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.wrap import Attached, QuantMixin, bake, load_quantizer_state, quantizer_state, quantizing

_LAST = 90_000  # its own loss curves come after those of the reconstruction's passes, which count in ten thousands


@dataclass(frozen=True)
class Quest:
    """base: the reconstruction it starts from. iterations: of each of the two stages.

    weight_lr: absolute; scale_lr: relative to the scale, or absolute (relative=False); temporal_scale_lr: in the first stage, None for
    the same. temporal, attention: patterns on the roles of the layers whose weights learn in each stage, separated by "|";
    attention_but: of those that do not. local: the stages whose loss has the tuned layers' own outputs, the first or both;
    counted: whether the network's loss counts once, or once for every tuned layer. Raises ConfigError for impossible settings.
    """

    base: Reconstruction
    iterations: int = 400
    batch_size: int = 16
    weight_lr: float = 1e-5
    scale_lr: float = 1e-3
    temporal: str = "time.*|resnet.time_proj"
    attention: str = "attn.*"
    seed: int = 0
    attention_but: str = ""
    local: Literal["temporal", "both"] = "temporal"
    counted: Literal["once", "per_layer"] = "once"
    relative: bool = True
    temporal_scale_lr: float | None = None

    def __post_init__(self) -> None:
        rates = (
            self.weight_lr,
            self.scale_lr,
            self.scale_lr if self.temporal_scale_lr is None else self.temporal_scale_lr,
        )
        if self.iterations < 1 or self.batch_size < 1 or min(rates) <= 0:
            raise ConfigError(
                f"Quest was asked for iterations={self.iterations}, batch_size={self.batch_size}, weight_lr={self.weight_lr},"
                f" scale_lr={self.scale_lr}, temporal_scale_lr={self.temporal_scale_lr}; all of them are positive."
            )
        if self.local not in ("temporal", "both") or self.counted not in ("once", "per_layer"):
            raise ConfigError(
                f"Quest was asked for local={self.local}, counted={self.counted}; use temporal or both, and once or per_layer."
            )
        if self.base.refinements():
            raise ConfigError("recon.base.refine_rounds is not known to QuEST; leave it out, or use recon=par alone.")

    @property
    def num_samples(self) -> int | None:
        """Calibration samples used (None: all)."""
        return self.base.num_samples

    @property
    def targets(self) -> Targets:
        """See ReconMethod: those of the base."""
        return self.base.targets

    @property
    def learns_rounding(self) -> bool:
        """Whether the base does; the tuning leaves decisions where they are."""
        return self.base.learns_rounding

    def refinements(self) -> tuple[()]:
        """See ReconMethod: none."""
        return ()

    def cost(self, samples: float) -> float:
        """See ReconMethod: the base, and two stages of forward, backward and a target each."""
        return self.base.cost(samples) + 2 * 4.0 * self.iterations * self.batch_size

    def run(
        self, attached: Attached, data: Batches, num: int, work: Path, report: LossReport, targets: Path | None = None,
        refit: Refit | None = None,
    ) -> None:  # fmt: skip
        """Run the base's reconstruction, then both stages, in place; see Reconstruction.run. refit: between them."""
        base_share = self.base.cost(num) / self.cost(num)
        self.base.run(attached, data, num, work, placed(report, "", 0.0, base_share), targets)
        if refit is not None:
            refit()
        call, stage_share = joined(data), (1 - base_share) / 2
        for number, (name, pattern) in enumerate((("temporal", self.temporal), ("attention", self.attention))):
            start = base_share + number * stage_share
            stage_report = placed(report, f"tuning: stage {number + 1} of 2", start, stage_share)
            _stage(_Stage(self, attached, name, pattern, number), call, work, stage_report)
        bake(attached)


@dataclass(frozen=True)
class _Stage:
    """pattern: on the roles of the layers whose weights learn."""

    config: Quest
    attached: Attached
    name: str
    pattern: str
    number: int

    @property
    def first(self) -> bool:
        """Whether it is the stage of the temporal layers."""
        return self.number == 0

    @property
    def local(self) -> bool:
        """Whether its loss has the tuned layers' own outputs too."""
        return self.first or self.config.local == "both"

    def layers(self) -> dict[str, QuantMixin]:
        """The layers whose weights learn: those of the pattern that are quantized."""
        quantized = {path.partition(".weight_quantizer")[0] for path in self.attached.quantizers("weight")}
        every = self.attached.layers()
        spared = [] if self.first else self._names(self.config.attention_but)
        return {name: every[name] for name in self._names(self.pattern) if name in quantized and name not in spared}

    def learners(self, layers: Mapping[str, QuantMixin]) -> list[Learner]:
        """Make the learners of weights and activation scales; [] where nothing is quantized."""
        config = self.config
        rate = (config.temporal_scale_lr if self.first else None) or config.scale_lr
        scales = Scales(rate, decay=False, relative=config.relative).start(self._quantizers(), config.iterations)
        latent = [layer.latent_weight() for layer in layers.values()]
        weights: list[Learner] = [TunedWeights(latent, config.weight_lr)] if latent else []
        return [*weights, scales] if scales else weights

    def _quantizers(self) -> list[TensorQuantizer]:
        """The activation quantizers whose scales learn: of the temporal layers in the first stage, all others in the second."""
        temporal_names = self._names(self.config.temporal)
        every = self.attached.quantizers(*ACTIVATIONS).items()
        return [q for path, q in every if (path.partition(".input_quantizer")[0] in temporal_names) == self.first]

    def _names(self, patterns: str) -> list[str]:
        layers = self.attached.adapter.layers()
        return [layer.name for layer in layers if fits(layer.role, patterns)]


def _stage(stage: _Stage, call: Call, work: Path, report: LossReport) -> None:
    """Restore a stage from the file of an earlier attempt, or run it."""
    attached, layers = stage.attached, stage.layers()
    file = work / f"tmp-quest-{stage.number}.safetensors"
    _open(attached, layers)
    if file.exists():
        _restore(attached, layers, load_tensors(file))
    elif learners := stage.learners(layers):
        save_curve(work, _LAST + stage.number, "tuning", stage.name, _tune(stage, layers, learners, call, report))
        tuned = {f"{name}.tuned": layer.latent_weight() for name, layer in layers.items()}
        save_tensors(file, {**quantizer_state(attached.quantizers(*ACTIVATIONS)), **tuned})


def _open(attached: Attached, layers: Mapping[str, QuantMixin]) -> None:
    """Replace learned rounding by weights that round to nearest, moved so that every layer's output stays the same."""
    pieces: dict[str, list[Tensor]] = {name: [] for name in layers}
    for path, quantizer, weight, _ in attached.weight_pieces():
        if (name := path.partition(".weight_quantizer")[0]) in layers:
            pieces[name].append(_moved(quantizer, weight))
            quantizer.rounding = Nearest()
    for name, layer in layers.items():
        layer.tuned, layer.baked = torch.cat(pieces[name], 1), None  # splits are of the input channels


def _moved(quantizer: TensorQuantizer, weight: Tensor) -> Tensor:
    """Move a weight up to half a step, so that rounding to nearest gives the code that floor and the learned decision gave.

    Its distance to the next code stays (at its quantized value it would always be half a step). Edges between two codes are
    avoided, so that floating-point error decides nothing.
    """
    if not isinstance(quantizer.rounding, FixedRound):
        return weight.clone()
    scale, _ = quantizer.scale(weight)
    u = weight / scale
    down, edge = torch.floor(u), 1e-3 + 4 * torch.finfo(u.dtype).eps * u.abs()
    fraction = (u - down).clamp(edge, 1 - edge)
    return cast(Tensor, (down + quantizer.rounding.up + fraction - 0.5) * scale)


def _restore(attached: Attached, layers: Mapping[str, QuantMixin], tensors: dict[str, Tensor]) -> None:
    for name, layer in layers.items():
        layer.tuned = tensors.pop(f"{name}.tuned").to(layer.weight)
    load_quantizer_state(attached.quantizers(*ACTIVATIONS), tensors)


def _tune(
    stage: _Stage, layers: Mapping[str, QuantMixin], learners: list[Learner], call: Call, report: LossReport
) -> Curve:
    config, device = stage.config, device_of(stage.attached.adapter)
    curve = Curve(config.iterations)
    what, lower = f"Fine-tuning ({stage.name})", "recon.weight_lr or recon.scale_lr"
    key = config.seed * 1_000_003 + stage.number
    for iteration, rows in enumerate(draws(len(call[0]), config.batch_size, config.iterations, key)):
        loss = _loss(stage, layers, *rows_of(call, rows, device))
        value, error = descend(learners, loss, iteration, what, lower)
        report(stage.name, iteration + 1, config.iterations, value)
        curve.add(error)
    for learner in learners:
        learner.finish()
    return curve


def _loss(stage: _Stage, layers: Mapping[str, QuantMixin], sample: Tensor, timestep: Tensor, cond: Cond) -> Tensor:
    """L_G, the error of the network's prediction (before it becomes noise), plus, where it is local, those of the tuned layers."""
    attached = stage.attached
    with attached.at(timestep), outputs_of(layers if stage.local else {}) as outputs:
        with quantizing(attached, weights=False, activations=False), torch.no_grad():
            target = attached.adapter.predict(sample, timestep, cond)
        full = dict(outputs)
        with quantizing(attached, weights=True, activations=True), torch.enable_grad():
            times = len(layers) if stage.config.counted == "per_layer" and layers else 1
            loss = times * nn.functional.mse_loss(attached.adapter.predict(sample, timestep, cond), target)
            return loss + sum(nn.functional.mse_loss(outputs[name], full[name]) for name in full)
