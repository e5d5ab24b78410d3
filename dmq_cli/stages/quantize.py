"""The stages that make a quantized network: calibration inputs, transform, ranges, reconstruction, correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.calib import choose_by_likelihood, choose_by_snr, collect, fit_activations, fit_weights
from dmq_cli.correct import CorrectionMethod
from dmq_cli.diagnose import network_cost
from dmq_cli.models import Call, Denoiser, InBatches, ModelDenoiser
from dmq_cli.recon import LossReport, ReconMethod, bytes_of_targets, curves, module_names, placed, record, require_space
from dmq_cli.stages import build
from dmq_cli.stages.graph import Task
from dmq_cli.store import write_json
from dmq_cli.store.tensors import check_finite, load_tensors, save_tensors
from dmq_cli.wrap import Attached, QuantDenoiser, deployable, load_extra_state, policy, state

_TARGETS_LIMIT = 8 << 30  # bytes; beyond that, every reconstruction computes the full-precision side unit by unit


@dataclass(frozen=True)
class CalibrationRows:
    """A calibration set, or num rows of it, in batches."""

    folder: Path
    batch_size: int
    num: int | None = None

    def __len__(self) -> int:
        total = len(load_tensors(self.folder / "timestep.safetensors")["data"])
        return min(total, self.num or total)

    def __call__(self) -> Iterator[Call]:
        return build.calibration(self.folder, self.batch_size, len(self))


def _rows(task: Task, num: int | None = None) -> CalibrationRows:
    return CalibrationRows(task.inputs["calibset"], task.runtime["batch_size"], num)


def calibset(task: Task) -> None:
    """Inputs of the full-precision network, independent of bits and method."""
    adapter = build.adapter(task.config, task.runtime)
    _collect(task, ModelDenoiser(adapter), adapter, task.work)


def _collect(task: Task, denoiser: Denoiser, adapter: Any, folder: Path) -> None:
    strategy, (settings, scheduler) = build.make(task.config["calib"]), build.sampler(task.config, "calib_sampler")
    collect(
        strategy, denoiser, scheduler, adapter.sample_shape(), folder, eta=settings.eta, adapter=adapter,
        guide=build.guide(task.config, task.runtime), batch_size=task.runtime["batch_size"], report=lambda done, total: task.progress.update("trajectories", done, total),
    )  # fmt: skip


def transform(task: Task) -> None:
    """What the full-precision network is rewritten with, before anything is quantized."""
    adapter, rows = build.adapter(task.config, task.runtime), _rows(task)
    tensors = build.make(task.config["transform"]).estimate(adapter, rows, _samples(task, rows))
    check_finite(tensors, "The transform")
    save_tensors(task.work / "transform.safetensors", tensors)


def calibrate(task: Task) -> None:
    """Ranges of all quantizers, choices between them, and the layer policy and cost that the scheme comes to."""
    attached, rows = build.attached(task.config, task.runtime), _rows(task)
    report = _samples(task, rows)
    load_extra_state(attached, load_tensors(task.inputs["transform"] / "transform.safetensors"))
    fit_weights(attached)
    fit_activations(attached, rows(), report)
    choose_by_likelihood(attached, rows, report)
    choose_by_snr(attached, rows, build.sampler(task.config, "calib_sampler")[1].alphas_cumprod, report)
    _save(task, attached, "The calibrated ranges")
    write_json(task.work / "policy.json", policy(attached.specs))
    write_json(task.work / "cost.json", {**network_cost(attached).record(), "deployable": deployable(attached.specs)})


def targets(task: Task) -> None:
    """What every unit gives (and reads) in full precision: computed once for all methods and bits."""
    wanted = task.config["recon_targets"]
    if wanted is None:
        return
    adapter, rows = build.adapter(task.config, task.runtime), _rows(task, wanted["num_samples"])
    modules = {name: adapter.model.get_submodule(name) for name in module_names(adapter, wanted["units"])}
    denoiser, inputs = ModelDenoiser(adapter), wanted["inputs"]
    size = bytes_of_targets(denoiser, modules, rows, inputs=inputs) * len(rows)
    if size <= _TARGETS_LIMIT:
        require_space("the targets of all units", size, task.work)
        record(denoiser, modules, rows, len(rows), task.work, inputs=inputs)


def reconstruct(task: Task) -> None:
    """Quantizers after learning, and losses.json: how the loss of every unit fell."""
    attached = build.attached(task.config, task.runtime, task.inputs["calibrate"])
    method: ReconMethod = build.make(task.config["recon"])
    rows, again = _rows(task, method.num_samples), method.refinements()
    costs = [one.cost(len(rows)) for one in (method, *again)]
    parts = [cost / (sum(costs) or 1) for cost in costs]
    first = placed(_reporter(task), "", 0.0, parts[0])
    method.run(attached, rows, len(rows), task.work, first, task.inputs["targets"])
    for number, refinement in enumerate(again):
        told = placed(
            _reporter(task), f"round {number + 1} of {len(again)}", sum(parts[: number + 1]), parts[number + 1]
        )
        _refine(task, attached, refinement, number, told)
    write_json(task.work / "losses.json", {"passes": _losses(task, len(again))})
    _save(task, attached, "The reconstructed quantizers")


def _losses(task: Task, rounds: int) -> dict[str, Any]:
    """By pass and unit; the passes of a refinement are named after its round."""
    found = curves(task.work)
    for number in range(rounds):
        again = curves(task.work / f"tmp-round-{number}")
        found |= {f"{name}, round {number + 1}": units for name, units in again.items()}
    return found


def _refine(task: Task, attached: Attached, method: ReconMethod, number: int, report: LossReport) -> None:
    """One round of progressively aligned reconstruction (TCAQ-DM's Algorithm 1): inputs from the network as it is now."""
    folder, work = task.work / f"tmp-inputs-{number}", task.work / f"tmp-round-{number}"
    work.mkdir(exist_ok=True)
    if not (folder / "timestep.safetensors").exists():  # written last
        folder.mkdir(exist_ok=True)
        _collect(task, QuantDenoiser(attached), attached.adapter, folder)
    rows = CalibrationRows(folder, task.runtime["batch_size"], method.num_samples)
    method.run(attached, rows, len(rows), work, report, None)


def _samples(task: Task, rows: CalibrationRows) -> Callable[[int], None]:
    total = len(rows)
    return lambda done: task.progress.update("samples", done, total)


def _reporter(task: Task) -> LossReport:
    def report(
        unit: str, iteration: int, iterations: int, loss: float, *, where: str = "", share: float | None = None
    ) -> None:
        task.progress.update(f"{where} {unit}".strip(), iteration, iterations, loss, share)

    return report


def correct(task: Task) -> None:
    """Tables of the correction; empty, and no network is built, for one that is estimated on no noise."""
    method: CorrectionMethod = build.make(task.config["correct"])
    tensors = {} if method.seeds is None else _estimate(task, method)
    check_finite(tensors, "The correction tables")
    save_tensors(task.work / "tables.safetensors", tensors)


def _estimate(task: Task, method: CorrectionMethod) -> dict[str, Tensor]:
    pair = build.Quantized(task.config, task.runtime, task.inputs["reconstruct"])
    settings, scheduler = build.sampler(task.config)
    full, quantized = (InBatches(one, task.runtime["batch_size"]) for one in (pair.full, pair.quantized))
    with torch.inference_mode():
        return method.estimate(
            full, quantized, scheduler, pair.attached.adapter.sample_shape(), settings.eta,
            report=lambda done, total: task.progress.update("calls", done, total),
            guide=build.guide(task.config, task.runtime, task.config["correct"].get("target")),
        )  # fmt: skip


def _save(task: Task, attached: Attached, what: str) -> None:
    tensors = state(attached)
    check_finite(tensors, what)
    save_tensors(task.work / "quantizers.safetensors", tensors)
