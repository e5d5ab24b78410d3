"""The graph of stages: what each reads and needs; and the stages that sample and measure.

Every function of a stage is handed a Task and writes into its folder.
"""

from __future__ import annotations

import json
from functools import lru_cache

import torch

from dmq_cli.metrics import Protocol
from dmq_cli.results.images import Pixels, load_images, save_images, write_chunk
from dmq_cli.results.record import ASKED, INFLUENCE
from dmq_cli.sampling import batches, parse_range, sample_images, walk
from dmq_cli.stages import build, quantize
from dmq_cli.stages.build import Parts
from dmq_cli.stages.graph import Config, Node, Task, chain
from dmq_cli.stages.measuring import judge
from dmq_cli.stages.tracing import trace
from dmq_cli.stages.validate import searches_activations
from dmq_cli.store import canonical, read_json, write_json
from dmq_cli.store.tensors import save_tensors


def sample(task: Task) -> None:
    """Sample images of the quantized, corrected network, or of its full-precision twin, whose key has no bits and no method.

    One file per batch; files of an attempt that was killed are kept.
    """
    estimator = build.denoiser(task.config, task.runtime, task.inputs)
    settings, scheduler = build.sampler(task.config)
    guide = build.guide(task.config, task.runtime, task.config.get("correct", {}).get("target"))
    decode = build.decoder(task.config, task.runtime)
    seeds, files, num_done = parse_range(task.config["seeds"]), [], 0
    for chunk in batches(seeds, task.runtime["batch_size"]):
        files.append(task.work / f"tmp-{chunk.start}-{chunk.stop}.npy")
        if not files[-1].exists():
            with torch.inference_mode():
                steps = walk(
                    estimator.denoiser, scheduler, chunk, estimator.shape, eta=settings.eta,
                    correction=estimator.correction, guide=guide,
                )  # fmt: skip
                write_chunk(files[-1], sample_images(steps, decode), task.config["to_uint8"])
        num_done += len(chunk)
        task.progress.update("images", num_done, len(seeds))
    if guide.conditions is not None:
        write_json(task.work / ASKED, {"asked": guide.conditions.subjects(seeds)})
    save_images(task.work, files)


def evaluate_fp(task: Task) -> None:
    """Measure the images of the full-precision twin."""
    _measure(task, "sample_fp")


def evaluate(task: Task) -> None:
    """Measure the quantized images, and how far each is from the full-precision image from the same noise."""
    _measure(task, "sample", load_images(task.inputs["sample_fp"]))


def _measure(task: Task, stage: str, twins: Pixels | None = None) -> None:
    images, file = load_images(task.inputs[stage]), task.inputs[stage] / ASKED
    subjects = read_json(file)["asked"] if file.is_file() else None
    protocol: Protocol = build.make(task.config["protocol"])
    numbers, influences = judge(images, protocol, task.runtime["outputs"], subjects, task.runtime["device"], twins)
    save_tensors(task.work / INFLUENCE, influences)
    write_json(task.work / "numbers.json", numbers)


def _halves(config: Config) -> int:
    """Network calls that one estimate takes for one sample."""
    return 1 if (config["model"].get("cond") or {}).get("guidance") is None else 2


def _trajectories(seeds: str, config: Config, parts: Parts) -> float:
    return float(len(parse_range(seeds)) * parts.sampler.calls * _halves(config))


def _samples(config: Config, parts: Parts) -> float:
    return float(parts.calib.size(parts.calib_sampler.calls) * _halves(config))


def _calibset_cost(config: Config, parts: Parts) -> float:
    return float(parts.calib.evaluations(parts.calib_sampler.calls) * _halves(config))


def _transform_cost(config: Config, parts: Parts) -> float:
    return parts.transform.cost(_samples(config, parts))


def _reconstruct_cost(config: Config, parts: Parts) -> float:
    samples, again = _samples(config, parts), 1.4 * _calibset_cost(config, parts)  # from the quantized network
    return parts.recon.cost(samples) + sum(refinement.cost(samples) + again for refinement in parts.recon.refinements())


def _targets_cost(config: Config, parts: Parts) -> float:
    samples, targets = _samples(config, parts), parts.recon.targets
    return min(samples, float(targets["num_samples"] or samples)) if targets else 0.0


def _correct_cost(config: Config, parts: Parts) -> float:
    return parts.correct.cost(parts.sampler.calls * _halves(config))


def _sample_cost(config: Config, parts: Parts) -> float:
    return _trajectories(config["seeds"], config, parts)


def _trace_cost(config: Config, parts: Parts) -> float:
    walks = 3.8 if parts.correct.seeds is None else 5.2
    return walks * _trajectories(config["trace"]["seeds"], config, parts) if config["trace"] else 0.0


def _calibrate_revised(config: Config) -> int:
    """1 where ranges of activations are searched: the values kept for that no longer depend on the batch size."""
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
        Node("sample_fp", ("model", "sampler", "seeds", "to_uint8"), sample, asks=("numerics",), cost=_sample_cost),
        Node(
            "sample", (*_NETWORK, "sampler", "correct", "seeds", "to_uint8"), sample, ("reconstruct", "correct"),
            asks=("numerics",), cost=lambda config, parts: 1.4 * _sample_cost(config, parts),
        ),
        Node("trace", (*_NETWORK, "sampler", "correct", "trace", "to_uint8"), trace, ("reconstruct", "correct"), cost=_trace_cost, version=3),
        Node("evaluate_fp", ("protocol", "measured_with"), evaluate_fp, ("sample_fp",), version=2),
        Node("evaluate", ("protocol", "measured_with"), evaluate, ("sample", "sample_fp"), version=2),
    )
}  # fmt: skip
ENDS = ("evaluate", "evaluate_fp", "trace")
"""The last stages: no other one needs them."""


def versions(config: Config) -> dict[str, int]:
    """The version of every stage that a run with this configuration may need."""
    reached = {name for end in ENDS for name in chain(NODES, end, config)}
    return {name: node.version_for(config) for name, node in NODES.items() if name in reached}
