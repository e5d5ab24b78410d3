"""The stages of dmq: what each reads, needs and makes. Every function here is handed a Task and writes into its folder."""

from __future__ import annotations

from typing import Any

import torch

from dmq_cli.calib import collect, fit_activations, fit_weights
from dmq_cli.metrics import Protocol, extractor_sha256, fidelity, images_sha256, psnr
from dmq_cli.models import Adapter, Denoiser, ModelDenoiser
from dmq_cli.sampling import Correction, batches, parse_range, sample_images, walk
from dmq_cli.stages import build
from dmq_cli.stages.graph import Config, Node, Task
from dmq_cli.stages.images import Pixels, load_images, reference_images, save_images, write_chunk
from dmq_cli.store import write_json
from dmq_cli.store.tensors import check_finite, load_tensors, save_tensors
from dmq_cli.wrap import policy, state


def calibset(task: Task) -> None:
    """Inputs of the full-precision network, independent of bits and method."""
    strategy, (settings, scheduler) = build.make(task.config["calib"]), build.sampler(task.config)
    adapter = build.adapter(task.config, task.runtime)
    collect(
        strategy, ModelDenoiser(adapter), scheduler, adapter.sample_shape(), task.work, eta=settings.eta,
        batch_size=task.runtime["batch_size"], report=lambda done, total: task.progress.update("trajectories", done, total),
    )  # fmt: skip


def calibrate(task: Task) -> None:
    """Ranges of all quantizers, and the layer policy that the scheme comes to."""
    attached = build.attached(task.config, task.runtime)
    fit_weights(attached)
    folder = task.inputs["calibset"]
    total = len(load_tensors(folder / "timestep.safetensors")["data"])
    data = build.calibration(folder, task.runtime["batch_size"])
    fit_activations(attached, data, lambda done: task.progress.update("samples", done, total))
    tensors = state(attached)
    check_finite(tensors, "The calibrated ranges")
    save_tensors(task.work / "quantizers.safetensors", tensors)
    write_json(task.work / "policy.json", policy(attached.specs))


def reconstruct(task: Task) -> None:
    """Quantizers after learning."""
    attached = build.attached(task.config, task.runtime, task.inputs["calibrate"])
    method, folder = build.make(task.config["recon"]), task.inputs["calibset"]
    total = len(load_tensors(folder / "timestep.safetensors")["data"])
    num = min(total, method.num_samples or total)
    units = attached.units()

    def report(unit: str, iteration: int, iterations: int, loss: float) -> None:
        task.progress.update(f"block {units.index(unit) + 1}/{len(units)} {unit}", iteration, iterations, loss)

    def data() -> Any:
        return build.calibration(folder, task.runtime["batch_size"], num)

    method.run(attached, data, num, task.work, report)
    tensors = state(attached)
    check_finite(tensors, "The reconstructed quantizers")
    save_tensors(task.work / "quantizers.safetensors", tensors)


def correct(task: Task) -> None:
    """Tables of the correction."""
    pair = build.Quantized(task.config, task.runtime, task.inputs["reconstruct"])
    settings, scheduler = build.sampler(task.config)
    with torch.inference_mode():
        tensors = build.make(task.config["correct"]).estimate(
            pair.full, pair.quantized, scheduler, pair.attached.adapter.sample_shape(), settings.eta,
            report=lambda done, total: task.progress.update("calls", done, total),
        )  # fmt: skip
    check_finite(tensors, "The correction tables")
    save_tensors(task.work / "tables.safetensors", tensors)


def sample_fp(task: Task) -> None:
    """Images of the full-precision twin: no bits and no method in the key, shared by all of them."""
    adapter = build.adapter(task.config, task.runtime)
    _sample(task, adapter, ModelDenoiser(adapter), None)


def sample(task: Task) -> None:
    """Images of the quantized, corrected network."""
    pair = build.Quantized(task.config, task.runtime, task.inputs["reconstruct"])
    tables = load_tensors(task.inputs["correct"] / "tables.safetensors")
    _sample(task, pair.attached.adapter, pair.quantized, build.make(task.config["correct"]).load(tables))


def _sample(task: Task, adapter: Adapter, denoiser: Denoiser, correction: Correction | None) -> None:
    """In chunks of one batch; a chunk that is there already, from an attempt that was killed, is kept."""
    settings, scheduler = build.sampler(task.config)
    seeds, shape, files, done = parse_range(task.config["seeds"]), adapter.sample_shape(), [], 0
    for chunk in batches(seeds, task.runtime["batch_size"]):
        files.append(task.work / f"tmp-{chunk.start}-{chunk.stop}.npy")
        if not files[-1].exists():
            with torch.inference_mode():
                steps = walk(denoiser, scheduler, chunk, shape, eta=settings.eta, correction=correction)
                write_chunk(files[-1], sample_images(steps), task.config["to_uint8"])
        done += len(chunk)
        task.progress.update("images", done, len(seeds))
    save_images(task.work, files)


def evaluate_fp(task: Task) -> None:
    """Distances of the full-precision twin."""
    _measure(task, load_images(task.inputs["sample_fp"]))


def evaluate(task: Task) -> None:
    """Distances of the quantized images, and how far each is from its twin from the same noise."""
    full, quantized = load_images(task.inputs["sample_fp"]), load_images(task.inputs["sample"])
    _measure(task, quantized, paired={"psnr": psnr(full, quantized)})


def _measure(task: Task, images: Pixels, **more: Any) -> None:
    protocol: Protocol = build.make(task.config["protocol"])
    reference = reference_images(protocol.reference, protocol.reference_path)
    numbers = fidelity(images, reference, protocol)
    record = protocol.record(images_sha256(reference), extractor_sha256(protocol))
    write_json(task.work / "numbers.json", {"numbers": numbers, "protocol": record, **more})


_TYPICAL_UNITS = 23  # of the embedded model; counting another model's would need the model, and this is an estimate


def _trajectories(seeds: str, config: Config) -> float:
    return len(parse_range(seeds)) * int(config["sampler"]["num_inference_steps"])


def _samples(config: Config) -> float:
    kept = min(int(config["calib"]["num_steps"]), int(config["sampler"]["num_inference_steps"]))
    return len(parse_range(config["calib"]["seeds"])) * kept


def _reconstruct_cost(config: Config) -> float:
    recon = config["recon"]
    if "weight_iterations" not in recon:
        return 0.0
    used = min(_samples(config), recon["num_samples"] or _samples(config))
    iterations = int(recon["weight_iterations"]) + int(recon["act_iterations"])
    # Forward and backward of each unit once an iteration is three passes of the network; capturing is half a pass of two
    # networks for each unit, in both stages.
    return iterations * int(recon["batch_size"]) * 3 + _TYPICAL_UNITS * 2 * used


def _correct_cost(config: Config) -> float:
    seeds = config["correct"].get("seeds")
    return 2 * _trajectories(seeds, config) if seeds else 0.0


NODES: dict[str, Node] = {
    node.name: node
    for node in (
        Node("calibset", ("model", "sampler", "calib"), calibset, cost=lambda c: _trajectories(c["calib"]["seeds"], c)),
        Node("calibrate", ("model", "sampler", "scheme"), calibrate, ("calibset",), cost=_samples),
        Node("reconstruct", ("model", "sampler", "scheme", "recon"), reconstruct, ("calibset", "calibrate"), cost=_reconstruct_cost),
        Node("correct", ("model", "sampler", "scheme", "correct"), correct, ("reconstruct",), cost=_correct_cost),
        Node("sample_fp", ("model", "sampler", "seeds", "to_uint8"), sample_fp, cost=lambda c: _trajectories(c["seeds"], c)),
        Node(
            "sample", ("model", "sampler", "scheme", "correct", "seeds", "to_uint8"), sample, ("reconstruct", "correct"),
            cost=lambda c: 1.4 * _trajectories(c["seeds"], c),
        ),
        Node("evaluate_fp", ("protocol", "measured_with"), evaluate_fp, ("sample_fp",)),
        Node("evaluate", ("protocol", "measured_with"), evaluate, ("sample", "sample_fp")),
    )
}  # fmt: skip
