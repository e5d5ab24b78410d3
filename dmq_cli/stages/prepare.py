"""Prepare the configuration that Hydra composed for the stages: plain values, the model's identity, and early refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from dmq_cli.errors import ConfigError, nearest
from dmq_cli.metrics import Protocol, extractor_sha256, further_sha256
from dmq_cli.metrics.extractors import check_readable
from dmq_cli.models import (
    Numerics,
    identified,
    image_shape,
    model_conditions,
    model_encoder_sha256,
    model_schedule,
)
from dmq_cli.paths import resolve
from dmq_cli.qat import JUDGED, Qat
from dmq_cli.quant import TRAINING_TIMESTEPS, IntervalScale, MlpScale
from dmq_cli.results.later import as_it_acts
from dmq_cli.results.naming import bits_name
from dmq_cli.stages import build
from dmq_cli.stages.build import Parts
from dmq_cli.stages.exported import as_exported, check_export_format, deployment, has_base, same_base
from dmq_cli.stages.find_reference import reference_identity
from dmq_cli.stages.graph import with_code
from dmq_cli.stages.how import check_choices
from dmq_cli.stages.interfaces import check_made, check_scheduler
from dmq_cli.stages.layer_bits import with_layer_bits
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.sampler_notes import sampler_section
from dmq_cli.stages.targets import trust
from dmq_cli.stages.validate import (
    check_combination,
    check_counts,
    check_guidance,
    check_runtime,
    check_seeds,
    check_steps,
    check_strategy,
    check_tabulated,
    check_trace,
    check_types,
)
from dmq_cli.store import file_sha256
from dmq_cli.wrap import Scheme

_SECTIONS = ("calib", "transform", "scheme", "policy", "recon", "correct", "sampler", "calib_sampler", "protocol")

_HOW = ("retry", "scale", "logger", "benchmark")  # say how a run is made, and change none of its numbers


class Prepared(NamedTuple):
    """config: the sections that keys are made of; parts: the objects that it names."""

    config: dict[str, Any]
    parts: Parts


def prepare(config: Mapping[str, Any]) -> dict[str, Any]:
    """Prepare a configuration, see `prepared`, without its parts."""
    return prepared(config).config


def prepared(config: Mapping[str, Any]) -> Prepared:
    """The configuration every stage is keyed by, and its parts. config: composed and resolved, plain values.

    Adds the sha256 of the model and of what it is measured with, and refuses, before anything is computed, seeds that
    overlap, image counts that do not fit the protocol, weights or references of the protocol that are not there, and
    values of the wrong type.
    """
    if config["stage"] not in NODES:
        raise ConfigError(
            f"stage={config['stage']} does not exist; leave it to the verb.{nearest(str(config['stage']), NODES)}"
        )
    trust(config)
    check_runtime(config["runtime"], NODES)
    check_choices(config)
    if config["stage"] == "export":
        check_export_format(config["format"])
    config = as_it_acts(as_exported(config))
    model = _identified(config)
    config = with_layer_bits({**config, "sampler": sampler_section(config["sampler"], model)})
    config["calib_sampler"] = calib_sampler(config)
    sections = (*_SECTIONS, "numerics") if "numerics" in config else _SECTIONS  # may be prepared already
    for section in sections:
        check_types(section, config[section])
    model |= identify_cond(model, config["cond"])
    config["correct"] = correction(config["correct"], model.get("cond"))
    whole = {**config, "model": model, "to_uint8": config["protocol"]["to_uint8"]}
    whole.pop("backend", None)
    whole |= deployment(config)
    whole["bits"] = {**config["bits"], "name": bits_name(config["bits"])}
    objects = {section: build.make(config[section]) for section in sections}
    for section, part in objects.items():
        check_made(section, config[section], part)
    check_trace(config.get("trace"))
    check_seeds(config, objects["correct"].seeds, JUDGED if isinstance(objects["recon"], Qat) else None)
    objects["correct"].check(objects["sampler"].eta)
    whole["recon_targets"] = objects["recon"].targets
    whole["training_data"] = training_data(config["recon"], objects["recon"])
    scheduler, calibrated = (objects[name].scheduler(model_schedule(model)) for name in ("sampler", "calib_sampler"))
    objects["calib"].check(calibrated)
    for name, part in (("sampler", scheduler), ("calib", objects["calib"].scheduler(calibrated))):
        check_scheduler(name, config[name], part)
    check_strategy(objects["calib"], model)
    check_combination(objects["scheme"] + objects["policy"], objects["recon"])
    check_steps(objects["scheme"], calibrated.timesteps, scheduler.timesteps)
    whole |= trained_at(objects["scheme"] + objects["policy"], int(calibrated.config.num_train_timesteps))
    if config["stage"] == "evaluate":
        check_counts(config, objects["protocol"])
        if objects["protocol"].layers():
            check_readable(image_shape(model), objects["protocol"], f"the model {model['name']}", drawn=True)
        check_tabulated(config, objects["protocol"])
    for name in _HOW:
        whole.pop(name, None)
    # Left out at their defaults, so that keys are as they were before these settings existed.
    if objects.get("numerics", Numerics()) == Numerics():
        whole.pop("numerics", None)
    if config.get("fp_seeds") is None:
        whole.pop("fp_seeds", None)
    whole["measured_with"] = None
    if config["stage"] == "evaluate":
        whole["measured_with"] = measured_with(objects["protocol"], config["runtime"]["outputs"])
    return Prepared(with_code(whole, NODES.values()), Parts(**objects))


def _identified(config: Mapping[str, Any]) -> dict[str, Any]:
    """The model's identity; of an exported one, that of its base, which need not be there."""
    if "exported" not in config:
        return identified(config["model"])
    return dict(same_base(config, identified(config["model"])) if has_base(config) else config["model"])


def training_data(section: Mapping[str, Any], recon: Any) -> dict[str, Any] | None:
    """The section of what a training reads, with the identity of its content; None where nothing is trained, or without data."""
    if not isinstance(recon, Qat) or recon.loss != "noise" or recon.data is None:
        return None
    return {**section["data"], "content": recon.data.content()}


def trained_at(scheme: Scheme, total: int) -> dict[str, int]:
    """The section of the training timesteps where tables of scales divide another number than the usual one. ConfigError for more sets."""
    scales = [rule.scale for rule in scheme.rules if isinstance(rule.scale, IntervalScale | MlpScale)]
    for scale in scales:
        if isinstance(scale, IntervalScale):
            scale.over(total)
    return {"training_timesteps": total} if scales and total != TRAINING_TIMESTEPS else {}


def identify_cond(model: Mapping[str, Any], cond: Mapping[str, Any]) -> dict[str, Any]:
    """Make the entry `cond` of a model: guidance, classes, prompts and their hashes; {} for an unconditional model.

    cond: the section of that name. Raises ConfigError for impossible guidance, and what `load_conditions` raises.
    """
    conditions = model_conditions(model, cond["classes"], cond["prompts"])
    check_guidance(cond["guidance"], conditions)
    if conditions is None:
        return {}
    prompts = cond["prompts"] and file_sha256(resolve(cond["prompts"]))
    sha256 = {"prompts": prompts, "encoder": model_encoder_sha256(model)}
    return {"cond": {"guidance": cond["guidance"], "classes": cond["classes"], **sha256, "path": cond["prompts"]}}


def correction(section: Mapping[str, Any], cond: Mapping[str, Any] | None) -> dict[str, Any]:
    """The section `correct`; without guidance it has no target, and a given one is refused with a ConfigError."""
    if cond is not None and cond["guidance"] is not None:
        return dict(section)
    if section.get("target") is not None:
        raise ConfigError(
            f"correct.target={section['target']} was given, but there is no guidance whose halves it could mean; leave it at null."
        )
    return {key: value for key, value in section.items() if key != "target"}


def calib_sampler(config: Mapping[str, Any]) -> dict[str, Any]:
    """The sampler of calibration and reconstruction: the run's own, or the same with calibrated_steps.

    Raises ConfigError for an impossible number of steps.
    """
    steps = config["calibrated_steps"]
    if steps is not None and (type(steps) is not int or steps < 1):
        raise ConfigError(f"calibrated_steps={steps} is not possible; give a whole number, at least 1, or null.")
    return {**config["sampler"], **({} if steps is None else {"num_inference_steps": steps})}


def measured_with(protocol: Protocol, outputs: str) -> dict[str, str | None]:
    """Hash what the protocol measures with: the extractor's weights, other weights, and the reference's file, where it has one.

    All are checked to be what the protocol asks for. Raises MissingWeightsError or EvaluationError.
    """
    reference = reference_identity(protocol, outputs)
    return {"extractor": extractor_sha256(protocol), "reference": reference, **further_sha256(protocol)}
