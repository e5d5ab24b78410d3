"""Reconstruction of a quantized network, unit by unit, in one or several passes.

Li et al.: BRECQ, ICLR 2021 (arXiv 2102.05426); layer by layer it is AdaRound (Nagel et al., ICML 2020, arXiv 2004.10568);
QDrop, EDA-DM, TFMQ-DM, TDQ and Q-Diffusion are settings of the same loop (conf/recon/).
Deliberate deviations from the released codes (yhhhli/BRECQ @ e455d62 and what descends from it): the network stays in eval
mode (no dropout); units come in execution order, not in that of named_children; both halves of a split are regularised; the
regulariser begins one iteration later (they count iterations from 1, and 4,000 of 20,000 is the first with it).
Where papers and codes differ: a pass that learns scales reads a unit's main input from the full-precision network, as the codes do
(mix: 1.0), not from the quantized predecessors, as the papers word it. The time embedding still comes from the quantized network there,
which the codes of BRECQ and Q-Diffusion take from the full-precision one, too (mixed: all), and those of QDrop and EDA-DM do not. On the embedded model the latter shrinks the activations of low-bit networks,
unit after unit, to make up for the noise in their inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from torch import Tensor

from dmq_cli.errors import ConfigError
from dmq_cli.recon.calls import Batches
from dmq_cli.recon.curves import save_curve
from dmq_cli.recon.learning import LossReport, Setting, learn, placed, start
from dmq_cli.recon.method import Refit, Share, Targets
from dmq_cli.recon.passes import Pass
from dmq_cli.recon.units import Unit, layers_of, units_of
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.wrap import Attached, bake, load_quantizer_state, quantizer_state

LearnUnit = Callable[[str, int, Path, Callable[[], Mapping[str, Tensor]]], None]
"""learn(pass, index of the unit, folder, state): state() is that of all quantizers before the pass, asked for once in a pass."""
_TYPICAL_UNITS = 23  # of the embedded model; counting another model's would need the model, and a cost is an estimate


@dataclass(frozen=True)
class Reconstruction:
    """Passes, by name and in order, over the units of the network.

    num_samples: calibration samples used (None: all). units: blocks or layers. temporal: see `units_of`. refine_rounds: how
    often calibration inputs are drawn from the quantized network and everything is learned again, with refine_iterations
    in place of the passes' own (TCAQ-DM's PAR, see `refinements`). Raises ConfigError for impossible settings.
    """

    passes: dict[str, Pass]
    num_samples: int | None = None
    batch_size: int = 32
    units: Literal["blocks", "layers"] = "blocks"
    temporal: Literal["block", "joint", "freeze"] = "block"
    refine_rounds: int | None = None
    refine_iterations: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("num_samples", self.num_samples), ("batch_size", self.batch_size)):
            if value is not None and value < 1:
                raise ConfigError(f"recon.{name}={value} reconstructs from nothing; use at least 1.")
        for name, value in (("refine_rounds", self.refine_rounds), ("refine_iterations", self.refine_iterations)):
            if value is not None and value < 1:
                raise ConfigError(
                    f"recon.{name}={value} refines nothing; use at least 1, or recon=brecq for a reconstruction without refinement."
                )
        if (self.refine_rounds is None) != (self.refine_iterations is None):
            raise ConfigError("recon.refine_rounds and recon.refine_iterations belong together; give both or none.")

    @property
    def reads_full(self) -> bool:
        """Whether some pass needs the units' full-precision inputs."""
        return any(recon_pass.reads_full for recon_pass in self.passes.values())

    @property
    def targets(self) -> Targets:
        """See ReconMethod."""
        return {"units": self.units, "num_samples": self.num_samples, "inputs": self.reads_full}

    def refinements(self) -> list[Reconstruction]:
        """refine_rounds times the same passes with refine_iterations each, where they have any."""
        iterations = self.refine_iterations or 0
        passes = {
            n: replace(recon_pass, iterations=iterations if recon_pass.iterations else 0)
            for n, recon_pass in self.passes.items()
        }
        return [replace(self, passes=passes, refine_rounds=None, refine_iterations=None)] * (self.refine_rounds or 0)

    def cost(self, samples: float) -> float:
        """See ReconMethod."""
        passes = [recon_pass for recon_pass in self.passes.values() if recon_pass.iterations]
        used = min(samples, float(self.num_samples or samples))
        # Forward and backward of each unit once an iteration is three passes of the network; capturing is half a pass of the
        # quantized network for each unit, in every pass.
        learning = sum(recon_pass.iterations for recon_pass in passes) * self.batch_size * 3
        return float(learning + _TYPICAL_UNITS * 0.5 * used * len(passes))

    @property
    def _refitted(self) -> str | None:
        """The first pass that learns scales alone, where rounding is learned before it."""
        passes = [(name, recon_pass) for name, recon_pass in self.passes.items() if recon_pass.iterations]
        alone = next((number for number, (_, recon_pass) in enumerate(passes) if recon_pass.rounding is None), 0)
        return passes[alone][0] if alone else None

    @property
    def learns_rounding(self) -> bool:
        """Whether some pass learns how weights are rounded."""
        return any(recon_pass.rounding is not None and recon_pass.iterations for recon_pass in self.passes.values())

    def run(
        self, attached: Attached, data: Batches, num: int, work: Path, report: LossReport, targets: Path | None = None,
        refit: Refit | None = None, share: Share | None = None,
    ) -> None:  # fmt: skip
        """Learn, unit by unit, in place.

        data gives batches of (sample, timestep), num rows in all. report(unit, iteration, iterations, loss) is called at
        every iteration. A finished unit is saved in `work`: a second call after a kill goes on with the next one and
        ends in the same bytes. targets: see `capture`; refit: called before the first pass that learns scales alone, once
        rounding is learned; share: for passes whose units have no order. Raises NumericsError if a loss diverges.
        """
        setting, units = self._start(attached, data, num, work, report, targets)
        total = max(1, sum(recon_pass.iterations for recon_pass in self.passes.values()) * len(units))
        num_done = 0
        for number, (name, recon_pass) in enumerate(self.passes.items()):
            if refit is not None and name == self._refitted:
                refit()
            if share is not None and recon_pass.unordered and recon_pass.iterations:
                state = quantizer_state(attached.quantizers())
                share(name, len(units), state, self._learner(setting, units, name), work)
            for index, unit in enumerate(units if recon_pass.iterations else ()):
                where = f"{name}: unit {index + 1} of {len(units)}"
                unit_report = placed(report, where, num_done / total, recon_pass.iterations / total)
                _reconstruct(replace(setting, report=unit_report), name, recon_pass, unit, _number(number, index))
                num_done += recon_pass.iterations

    def helper(
        self, attached: Attached, data: Batches, num: int, report: LossReport, targets: Path | None
    ) -> LearnUnit:
        """Make what another process does to learn units of one pass after the other."""
        setting, units = self._start(attached, data, num, Path(), report, targets)
        at: str | None = None

        def learn(name: str, index: int, folder: Path, state: Callable[[], Mapping[str, Tensor]]) -> None:
            nonlocal at
            if name != at:
                load_quantizer_state(attached.quantizers(), state())
                bake(attached)
                at = name
            self._learner(setting, units, name)(index, folder)

        return learn

    def _start(
        self, attached: Attached, data: Batches, num: int, work: Path, report: LossReport, targets: Path | None
    ) -> tuple[Setting, list[Unit]]:
        setting = Setting(attached, data, num, work, report, self.batch_size, self.seed, targets)
        units = units_of(attached, self.units, self.temporal)
        bake(attached)
        return setting, units

    def _learner(self, setting: Setting, units: Sequence[Unit], name: str) -> Callable[[int, Path], None]:
        """Learn the unit of this index in the pass `name` into a folder."""
        number = list(self.passes).index(name)

        def learn(index: int, folder: Path) -> None:
            _reconstruct(replace(setting, work=folder), name, self.passes[name], units[index], _number(number, index))

        return learn


@dataclass(frozen=True)
class NoReconstruction:
    """No learning: keeps rounding to nearest and the calibrated ranges."""

    num_samples: ClassVar[None] = None
    learns_rounding: ClassVar[bool] = False
    targets: ClassVar[None] = None

    def run(
        self, attached: Attached, data: Batches, num: int, work: Path, report: LossReport, targets: Path | None = None,
        refit: Refit | None = None,
    ) -> None:  # fmt: skip
        """Do nothing."""

    def refinements(self) -> tuple[()]:
        """See ReconMethod: none."""
        return ()

    def cost(self, samples: float) -> float:
        """See ReconMethod: 0."""
        return 0.0


def _number(recon_pass: int, unit: int) -> int:
    """The number of a unit, counted over all passes."""
    return recon_pass * 10_000 + unit


def _reconstruct(setting: Setting, name: str, recon_pass: Pass, unit: Unit, number: int) -> None:
    """Reconstruct one unit in one pass, or restore it from the file of an earlier attempt."""
    attached = setting.attached
    chosen = {n: q for n, q in attached.quantizers(*recon_pass.slots).items() if unit.owns(n)}
    file = setting.work / f"tmp-{name}-{number:05d}.safetensors"
    if file.exists():
        load_quantizer_state(chosen, load_tensors(file))
    elif learners := start(attached, recon_pass, chosen):
        save_curve(setting.work, number, name, unit.name, learn(setting, recon_pass, unit, number, learners))
        save_tensors(file, quantizer_state(chosen), {"unit": unit.name})
    for layer in layers_of(attached, unit).values():
        layer.bake()
