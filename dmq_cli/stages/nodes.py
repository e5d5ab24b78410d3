"""The graph of stages: what each reads and needs, and about how much work it is. The functions they run are in runs.py.

Computing keys from it imports neither diffusers nor a network, so that a finished sweep is found at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from dmq_cli.sampling import parse_range
from dmq_cli.stages.cut_short import was_cut_short
from dmq_cli.stages.graph import Config, Node, Task, chain
from dmq_cli.stages.searches import searches_activations
from dmq_cli.store import canonical

if TYPE_CHECKING:
    from dmq_cli.stages.build import Parts


def _run(name: str) -> Callable[[Task], None]:
    """Name a function of runs.py, which is imported when the stage runs."""

    def run(task: Task) -> None:
        from dmq_cli.stages import runs

        getattr(runs, name)(task)

    return run


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


def _calibset_revised(config: Config) -> int:
    """1 where evenly spaced steps left out the end of the trajectories: since then they reach it."""
    return int(was_cut_short(config))


def _calibrate_revised(config: Config) -> int:
    """1 where ranges of activations are searched: the values kept for that no longer depend on the batch size."""
    return int(_searches(canonical(config["scheme"]), canonical(config["policy"])))


@lru_cache(maxsize=256)
def _searches(scheme: str, policy: str) -> bool:
    return searches_activations([json.loads(scheme), json.loads(policy)])


def _reconstruct_revised(config: Config) -> int:
    """1 where errors of layers count beside those of units: since then both are sums over channels, whatever the layout.

    1 in a training by LSQ where ranges have a lower end: since then its factor is on the whole gradient, and not on a part of it.
    1 in a training by NIPQ: since then its noise is drawn four elements at a time.
    """
    recon = config["recon"]
    gradients = (recon.get("gradients") or {}).get("_target_") if isinstance(recon, Mapping) else None
    by_lsq = gradients == "dmq_cli.qat.Lsq" and (config["scheme"].get("range") or "scale") != "scale"
    return int(_counts_layers(recon) or by_lsq or gradients == "dmq_cli.qat.Nipq")


def _counts_layers(section: Any) -> bool:
    if not isinstance(section, Mapping):
        return False
    counts = section.get("_target_") == "dmq_cli.recon.Pass" and bool(section.get("fine"))
    return counts or any(map(_counts_layers, section.values()))


def _reconstruct_needs(config: Config) -> tuple[str, ...]:
    """What a reconstruction needs, and a training that reads data besides."""
    recon = config.get("recon")
    reads_data = isinstance(recon, Mapping) and recon.get("_target_") == "dmq_cli.qat.Qat" and recon["loss"] == "noise"
    return ("calibset", "calibrate", "targets", *(("training_set",) if reads_data else ()))


def _sample_needs(config: Config) -> tuple[str, ...]:
    """What sampling needs: of a backend its export; nothing where the model is an exported folder, which has all of it."""
    if "exported" in config:
        return ()
    simulated = config.get("backend", "simulated") == "simulated"  # a configuration that is not prepared says so
    return ("reconstruct", "correct") if simulated else ("export",)


def _export_revised(config: Config) -> int:
    """Graphs of OpenVINO: attention in integers, weights of fewer bits (1); sums in place of ones, pads and moved layouts (2); variances
    of group normalisation around the mean (3).

    1 more where biases and norms are trained: since then the size that is recorded counts them once.
    """
    weights = config["recon"].get("weights") if isinstance(config["recon"], Mapping) else None
    trained = isinstance(weights, Mapping) and weights.get("_target_") == "dmq_cli.qat.Latent"
    return (3 if config.get("format") == "openvino" else 0) + int(trained)


_NAMED = ("calib", "transform", "recon", "bits", "budget", "method", "cond", "calibrated_steps", "to_uint8", "format")
"""What an exported folder records besides, so that sampling from it is named and keyed as the run."""
_NETWORK = ("model", "calib_sampler", "scheme", "policy")

NODES: dict[str, Node] = {
    node.name: node
    for node in (
        Node("calibset", ("model", "calib_sampler", "calib"), _run("calibset"), revised=_calibset_revised, cost=_calibset_cost),
        Node("transform", ("model", "transform"), _run("transform"), ("calibset",), cost=_transform_cost),
        Node(
            "calibrate", _NETWORK, _run("calibrate"), ("calibset", "transform"),
            revised=_calibrate_revised, asks=("training_timesteps",), cost=_samples,
        ),
        Node("training_set", ("model", "training_data"), _run("training_set")),
        Node("targets", ("model", "recon_targets"), _run("targets"), ("calibset",), cost=_targets_cost),
        Node(
            "reconstruct", (*_NETWORK, "calib", "recon"), _run("reconstruct"), _reconstruct_needs,
            revised=_reconstruct_revised, cost=_reconstruct_cost,
        ),
        Node("correct", (*_NETWORK, "sampler", "correct"), _run("correct"), ("reconstruct",), cost=_correct_cost),
        Node("sample_fp", ("model", "sampler", "seeds", "to_uint8"), _run("sample_fp"), asks=("numerics",), cost=_sample_cost),
        Node(
            "sample", (*_NETWORK, "sampler", "correct", "seeds", "to_uint8"), _run("sample"), _sample_needs,
            asks=("numerics", "exported", "backend"), cost=lambda config, parts: 1.4 * _sample_cost(config, parts),
        ),
        Node("export", (*_NETWORK, "sampler", "correct", *_NAMED), _run("export"), ("calibrate", "reconstruct", "correct"), revised=_export_revised, asks=("numerics", "layer_bits", "deployed")),
        Node("trace", (*_NETWORK, "sampler", "correct", "trace", "to_uint8"), _run("trace"), ("reconstruct", "correct"), cost=_trace_cost, version=4),
        Node("evaluate_fp", ("protocol", "measured_with"), _run("evaluate_fp"), ("sample_fp",), version=2),
        Node("evaluate", ("protocol", "measured_with"), _run("evaluate"), ("sample", "sample_fp"), version=2),
    )
}  # fmt: skip
ENDS = ("evaluate", "evaluate_fp", "trace")
"""The last stages: no other one needs them."""
_TRACE_OF_JOBS = 3
"""What keys of jobs say about the trace, whatever its version: no number of a result comes from it, so results stay known."""


def versions(config: Config) -> dict[str, int]:
    """The version of every stage that a run with this configuration may need, as keys of jobs have it."""
    reached = {name for end in ENDS for name in chain(NODES, end, config)}
    numbered = {name: node.version_for(config) for name, node in NODES.items() if name in reached}
    return {**numbered, "trace": _TRACE_OF_JOBS}
