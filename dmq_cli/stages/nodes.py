"""The graph of stages: what each reads and needs; and the stages that sample and measure.

Every function of a stage is handed a Task and writes into its folder.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch

from dmq_cli.metrics import Protocol
from dmq_cli.models import Adapter, Denoiser, ModelDenoiser
from dmq_cli.results.images import Pixels, load_images, save_images, write_chunk
from dmq_cli.results.record import ASKED, INFLUENCE
from dmq_cli.sampling import Correction, batches, parse_range, sample_images, walk
from dmq_cli.stages import build, quantize
from dmq_cli.stages.graph import Config, Node, Task
from dmq_cli.stages.measuring import judge
from dmq_cli.stages.tracing import trace
from dmq_cli.stages.validate import searches_activations
from dmq_cli.store import canonical, read_json, write_json
from dmq_cli.store.tensors import load_tensors, save_tensors
from dmq_cli.transform import NoTransform


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
    guide = build.guide(task.config, task.runtime, task.config.get("correct", {}).get("target"))
    decode = build.decoder(task.config, task.runtime)
    seeds, shape, files, done = parse_range(task.config["seeds"]), adapter.sample_shape(), [], 0
    for chunk in batches(seeds, task.runtime["batch_size"]):
        files.append(task.work / f"tmp-{chunk.start}-{chunk.stop}.npy")
        if not files[-1].exists():
            with torch.inference_mode():
                steps = walk(denoiser, scheduler, chunk, shape, eta=settings.eta, correction=correction, guide=guide)
                write_chunk(files[-1], sample_images(steps, decode), task.config["to_uint8"])
        done += len(chunk)
        task.progress.update("images", done, len(seeds))
    if guide.conditions is not None:
        write_json(task.work / ASKED, {"asked": guide.conditions.asked(seeds)})
    save_images(task.work, files)


def evaluate_fp(task: Task) -> None:
    """Distances of the full-precision twin."""
    _measure(task, "sample_fp")


def evaluate(task: Task) -> None:
    """Distances of the quantized images, and how far each is from its twin from the same noise."""
    _measure(task, "sample", load_images(task.inputs["sample_fp"]))


def _measure(task: Task, stage: str, twins: Pixels | None = None) -> None:
    images, file = load_images(task.inputs[stage]), task.inputs[stage] / ASKED
    asked = read_json(file)["asked"] if file.is_file() else None
    protocol: Protocol = build.make(task.config["protocol"])
    found, influences = judge(images, protocol, task.runtime["outputs"], asked, task.runtime["device"], twins)
    save_tensors(task.work / INFLUENCE, influences)
    write_json(task.work / "numbers.json", found)


_TYPICAL_UNITS = 23  # of the embedded model; counting another model's would need the model, and this is an estimate


def _halves(config: Config) -> int:
    """Network calls that one estimate takes for one sample."""
    return 1 if (config["model"].get("cond") or {}).get("guidance") is None else 2


def _trajectories(seeds: str, config: Config) -> float:
    return float(len(parse_range(seeds)) * build.make(config["sampler"]).calls * _halves(config))


def _samples(config: Config) -> float:
    return float(build.make(config["calib"]).size(build.make(config["calib_sampler"]).calls) * _halves(config))


def _calibset_cost(config: Config) -> float:
    strategy, sampler = build.make(config["calib"]), build.make(config["calib_sampler"])
    return float(strategy.evaluations(sampler.calls) * _halves(config))


def _transform_cost(config: Config) -> float:
    return 0.0 if isinstance(build.make(config["transform"]), NoTransform) else _samples(config)


def _reconstruct_cost(config: Config) -> float:
    method = build.make(config["recon"])
    base, batch_size = getattr(method, "base", method), float(config["recon"].get("batch_size", 32))
    tuning = 8.0 * getattr(method, "iterations", 0) * batch_size  # two stages; forward, backward and a target
    rounds: int = method.refine_rounds or 0
    once = _passes_cost(config, base, batch_size) + tuning
    again = _passes_cost(config, base.refined(), batch_size) + 1.4 * _calibset_cost(config) if rounds else 0.0
    return float(once + rounds * again)


def _passes_cost(config: Config, method: Any, batch_size: float) -> float:
    passes = [one for one in getattr(method, "passes", {}).values() if one.iterations]
    used = min(_samples(config), float(method.num_samples or _samples(config)))
    # Forward and backward of each unit once an iteration is three passes of the network; capturing is half a pass of the
    # quantized network for each unit, in every pass.
    learning = sum(one.iterations for one in passes) * batch_size * 3
    return float(learning + _TYPICAL_UNITS * 0.5 * used * len(passes))


def _targets_cost(config: Config) -> float:
    wanted = config["recon_targets"]
    if not wanted:
        return 0.0
    return min(_samples(config), float(wanted["num_samples"] or _samples(config)))


def _correct_cost(config: Config) -> float:
    seeds = config["correct"].get("seeds")
    return 2 * _trajectories(seeds, config) if seeds else 0.0


def _trace_cost(config: Config) -> float:
    corrected = config["correct"].get("seeds") is not None
    return (3.8 if corrected else 2.4) * _trajectories(config["trace"]["seeds"], config) if config["trace"] else 0.0


def _calibrate_revised(config: Config) -> int:
    """1 where ranges of activations are searched: which values are kept for that no longer depends on the batch size."""
    return int(_searches(canonical(config["scheme"]), canonical(config["policy"])))


@lru_cache(maxsize=256)
def _searches(scheme: str, policy: str) -> bool:
    return searches_activations([json.loads(scheme), json.loads(policy)])


_NETWORK = ("model", "calib_sampler", "scheme", "policy")

NODES: dict[str, Node] = {
    node.name: node
    for node in (
        Node("calibset", ("model", "calib_sampler", "calib"), quantize.calibset, cost=_calibset_cost),
        Node("transform", ("model", "transform"), quantize.transform, ("calibset",), cost=_transform_cost),
        Node("calibrate", _NETWORK, quantize.calibrate, ("calibset", "transform"), revised=_calibrate_revised, cost=_samples),
        Node("targets", ("model", "recon_targets"), quantize.targets, ("calibset",), cost=_targets_cost),
        Node("reconstruct", (*_NETWORK, "calib", "recon"), quantize.reconstruct, ("calibset", "calibrate", "targets"), cost=_reconstruct_cost),
        Node("correct", (*_NETWORK, "sampler", "correct"), quantize.correct, ("reconstruct",), cost=_correct_cost),
        Node("sample_fp", ("model", "sampler", "seeds", "to_uint8"), sample_fp, asks=("numerics",), cost=lambda c: _trajectories(c["seeds"], c)),
        Node(
            "sample", (*_NETWORK, "sampler", "correct", "seeds", "to_uint8"), sample, ("reconstruct", "correct"),
            asks=("numerics",), cost=lambda c: 1.4 * _trajectories(c["seeds"], c),
        ),
        Node("trace", (*_NETWORK, "sampler", "correct", "trace", "to_uint8"), trace, ("reconstruct", "correct"), cost=_trace_cost, version=3),
        Node("evaluate_fp", ("protocol", "measured_with"), evaluate_fp, ("sample_fp",), version=2),
        Node("evaluate", ("protocol", "measured_with"), evaluate, ("sample", "sample_fp"), version=2),
    )
}  # fmt: skip
