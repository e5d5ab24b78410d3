"""The stages that make a quantized network: calibration inputs, transform, ranges, reconstruction, correction."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dmq_cli.calib import Collection, choose_by_likelihood, choose_by_snr, fit_activations, fit_weights
from dmq_cli.correct import CorrectionMethod
from dmq_cli.diagnose import network_cost
from dmq_cli.models import Call, Denoiser, InBatches, ModelDenoiser, levels, model_schedule
from dmq_cli.qat import JUDGED, Distance, Qat
from dmq_cli.recon import (
    LearnUnit,
    LossReport,
    ReconMethod,
    bytes_of_targets,
    curves,
    module_names,
    placed,
    record,
    require_space,
)
from dmq_cli.sampling import batches, parse_range, walk
from dmq_cli.stages import build
from dmq_cli.stages.graph import Task
from dmq_cli.stages.stopping import finishing
from dmq_cli.store import write_json
from dmq_cli.store.tensors import check_finite, load_tensors, save_tensors
from dmq_cli.wrap import Attached, QuantDenoiser, Scheme, deployable, load_extra_state, policy, quantizing, state

_NEAREST = 1e-12  # of two samples: equal ones have no decibels
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
        """Read the batches, from the first one."""
        return build.calibration(self.folder, self.batch_size, len(self))


def _rows(task: Task, num: int | None = None) -> CalibrationRows:
    return CalibrationRows(task.inputs["calibset"], task.runtime["batch_size"], num)


def calibset(task: Task) -> None:
    """Inputs of the full-precision network, independent of bits and method; of a shard those of its trajectories."""
    if "collection" not in task.shared:
        adapter = build.adapter(task.config, task.runtime)
        task.shared["collection"] = _collection(task, ModelDenoiser(adapter), adapter)
    collection: Collection = task.shared["collection"]
    if task.parts:
        collection.join(task.work, [folder for folder, _ in task.parts])
    elif "part" in task.config:
        with finishing():
            collection.write(task.work, parse_range(task.config["part"]), task.runtime["batch_size"], _walked(task))
    else:
        collection.write_all(task.work, task.runtime["batch_size"], _walked(task))


def _collection(task: Task, denoiser: Denoiser, adapter: Any) -> Collection:
    strategy, (settings, scheduler) = build.make(task.config["calib"]), build.sampler(task.config, "calib_sampler")
    guide = build.guide(task.config, task.runtime)
    return Collection(strategy, denoiser, scheduler, adapter.sample_shape(), settings.eta, adapter, guide)


def _walked(task: Task) -> Callable[[int, int], None]:
    return lambda num_done, total: task.progress.update("trajectories", num_done, total)


def transform(task: Task) -> None:
    """Fit the tensors of the transform, which rewrites the full-precision network before anything is quantized."""
    adapter, rows = build.adapter(task.config, task.runtime), _rows(task)
    tensors = build.make(task.config["transform"]).estimate(adapter, rows, _samples(task, rows))
    check_finite(tensors, "The transform")
    save_tensors(task.work / "transform.safetensors", tensors)


def calibrate(task: Task) -> None:
    """Fit the ranges of all quantizers and the choices between them, and write the resulting bits per layer and cost."""
    attached, rows = build.attached(task.config, task.runtime), _rows(task)
    report, (shown, quantized) = _samples(task, rows), _shown(task)
    load_extra_state(attached, load_tensors(task.inputs["transform"] / "transform.safetensors"))
    fit_weights(attached)
    fit_activations(attached, shown(), report, quantized=quantized)
    choose_by_likelihood(attached, rows, report)
    choose_by_snr(attached, rows, build.sampler(task.config, "calib_sampler")[1].alphas_cumprod, report)
    _save(task, attached, "The calibrated ranges")
    write_json(task.work / "policy.json", policy(attached.specs))
    write_json(task.work / "cost.json", {**network_cost(attached).record(), "deployable": deployable(attached.specs)})


def _shown(task: Task) -> tuple[CalibrationRows, bool]:
    """What ranges of activations are taken from: calibration samples, and whether weights are quantized."""
    scheme: Scheme = build.make(task.config["scheme"])
    return _rows(task, scheme.samples), scheme.network == "quantized"


def targets(task: Task) -> None:
    """Record the output (and input) of every unit in full precision, once for all methods and bits."""
    settings = task.config["recon_targets"]
    if settings is None:
        return
    adapter, rows = build.adapter(task.config, task.runtime), _rows(task, settings["num_samples"])
    modules = {name: adapter.model.get_submodule(name) for name in module_names(adapter, settings["units"])}
    denoiser, inputs = ModelDenoiser(adapter), settings["inputs"]
    size = bytes_of_targets(denoiser, modules, rows, inputs=inputs) * len(rows)
    if size <= _TARGETS_LIMIT:
        require_space("the targets of all units", size, task.work)
        record(denoiser, modules, rows, len(rows), task.work, inputs=inputs)


def reconstruct(task: Task) -> None:
    """Learn the quantizers unit by unit, and write losses.json, the loss of every unit over its iterations."""
    attached = build.attached(task.config, task.runtime, task.inputs["calibrate"])
    method: ReconMethod = build.make(task.config["recon"])
    rows, again = _rows(task, method.num_samples), method.refinements()
    costs = [method.cost(len(rows)), *(refinement.cost(len(rows)) for refinement in again)]
    shares = [cost / (sum(costs) or 1) for cost in costs]
    report = placed(_reporter(task), "", 0.0, shares[0])
    shown, quantized = _shown(task)
    further: dict[str, Any] = {}
    if quantized:
        further["refit"] = lambda: fit_activations(attached, shown(), quantized=True)
    if isinstance(method, Qat):
        further |= {"training_set": task.inputs.get("training_set"), "distance": _distance(task, attached)}
        further["alphas_cumprod"] = levels(model_schedule(task.config["model"]))
    if "share" in task.shared:
        further["share"] = task.shared["share"]
    method.run(attached, rows, len(rows), task.work, report, task.inputs["targets"], **further)
    for number, refinement in enumerate(again):
        where, start = f"round {number + 1} of {len(again)}", sum(shares[: number + 1])
        _refine(task, attached, refinement, number, placed(_reporter(task), where, start, shares[number + 1]))
    write_json(task.work / "losses.json", {"passes": _losses(task, len(again))})
    _save(task, attached, "The reconstructed quantizers")


def unit_helper(task: Task) -> LearnUnit:
    """Load the network as it is calibrated, for a process that learns units of passes without order; see Reconstruction.helper."""
    attached = build.attached(task.config, task.runtime, task.inputs["calibrate"])
    method = build.make(task.config["recon"])
    rows = _rows(task, method.num_samples)
    helper: LearnUnit = method.helper(attached, rows, len(rows), _reporter(task), task.inputs["targets"])
    return helper


def _distance(task: Task, attached: Attached) -> Distance:
    """Make the measure of how far images are from those of full precision: the mean squared difference of each sample from that of the
    same noise, in decibels, and their mean; without the logarithm the few samples that become something else decide."""
    settings, scheduler = build.sampler(task.config, "calib_sampler")
    guide, seeds = build.guide(task.config, task.runtime), parse_range(JUDGED)

    @torch.no_grad()
    def samples(denoiser: Denoiser) -> Tensor:
        shape, chunks = attached.adapter.sample_shape(), batches(seeds, task.runtime["batch_size"])
        walks = [walk(denoiser, scheduler, chunk, shape, eta=settings.eta, guide=guide) for chunk in chunks]
        return torch.cat([deque(steps, maxlen=1).pop().following for steps in walks]).flatten(1)

    @cache
    def full() -> Tensor:
        with quantizing(attached, weights=False, activations=False):
            return samples(ModelDenoiser(attached.adapter))

    def distance(denoiser: Denoiser) -> float:
        differences = (samples(denoiser) - full()).square().mean(1)
        return float((10 * differences.clamp_min(_NEAREST).log10()).mean())

    return distance


def _losses(task: Task, rounds: int) -> dict[str, Any]:
    """Collect the loss curves by pass and unit; the passes of a refinement carry the number of its round."""
    losses = curves(task.work)
    for number in range(rounds):
        again = curves(task.work / f"tmp-round-{number}")
        losses |= {f"{name}, round {number + 1}": units for name, units in again.items()}
    return losses


def _refine(task: Task, attached: Attached, method: ReconMethod, number: int, report: LossReport) -> None:
    """One round of progressively aligned reconstruction (TCAQ-DM's Algorithm 1): inputs from the network as it is now."""
    folder, work = task.work / f"tmp-inputs-{number}", task.work / f"tmp-round-{number}"
    work.mkdir(exist_ok=True)
    if not (folder / "timestep.safetensors").exists():  # written last
        folder.mkdir(exist_ok=True)
        collection = _collection(task, QuantDenoiser(attached), attached.adapter)
        collection.write_all(folder, task.runtime["batch_size"], _walked(task))
    rows = CalibrationRows(folder, task.runtime["batch_size"], method.num_samples)
    method.run(attached, rows, len(rows), work, report, None)


def _samples(task: Task, rows: CalibrationRows) -> Callable[[int], None]:
    total = len(rows)
    return lambda num_done: task.progress.update("samples", num_done, total)


def _reporter(task: Task) -> LossReport:
    def report(
        unit: str, iteration: int, iterations: int, loss: float, *, where: str = "", share: float | None = None
    ) -> None:
        task.progress.update(f"{where} {unit}".strip(), iteration, iterations, loss, share)

    return report


def correct(task: Task) -> None:
    """Estimate the tables of the correction; empty, without building a network, for one that needs no samples."""
    method: CorrectionMethod = build.make(task.config["correct"])
    tensors = {} if method.seeds is None else _estimate(task, method)
    check_finite(tensors, "The correction tables")
    save_tensors(task.work / "tables.safetensors", tensors)


def _estimate(task: Task, method: CorrectionMethod) -> dict[str, Tensor]:
    pair = build.quantized(task.config, task.runtime, task.inputs["reconstruct"])
    settings, scheduler = build.sampler(task.config)
    full, quantized = (InBatches(denoiser, task.runtime["batch_size"]) for denoiser in (pair.full, pair.quantized))
    with torch.inference_mode():
        return method.estimate(
            full, quantized, scheduler, pair.attached.adapter.sample_shape(), settings.eta,
            report=lambda num_done, total: task.progress.update("calls", num_done, total),
            guide=build.guide(task.config, task.runtime, task.config["correct"].get("target")),
        )  # fmt: skip


def _save(task: Task, attached: Attached, what: str) -> None:
    tensors = state(attached)
    check_finite(tensors, what)
    save_tensors(task.work / "quantizers.safetensors", tensors)
