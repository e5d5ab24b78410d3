"""From what Hydra composed to what the stages read: plain values, the model's identity, and early refusals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ConfigError, SeedError, nearest
from dmq_cli.metrics import Protocol, extractor_sha256, further_sha256
from dmq_cli.metrics.extractors import check_readable
from dmq_cli.models import (
    Conditions,
    Numerics,
    identified,
    image_shape,
    model_conditions,
    model_encoder_sha256,
    model_schedule,
)
from dmq_cli.paths import resolve
from dmq_cli.sampling import parse_range, parse_ranges, require_disjoint, show
from dmq_cli.stages import build
from dmq_cli.stages.check import check_choices, check_runtime, check_types
from dmq_cli.stages.combine import check_combination, check_steps, check_strategy
from dmq_cli.stages.graph import with_code
from dmq_cli.stages.interfaces import check_made, check_scheduler
from dmq_cli.stages.naming import bits_name
from dmq_cli.stages.nodes import NODES
from dmq_cli.stages.reference import reference_identity
from dmq_cli.stages.sampler_notes import sampler_section
from dmq_cli.stages.targets import trust
from dmq_cli.store import file_sha256

_SECTIONS = ("calib", "transform", "scheme", "policy", "recon", "correct", "sampler", "calib_sampler", "protocol")

_HOW = ("retry", "scale", "logger")  # say how it is run, not what it is


def prepare(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration every stage is keyed by. config: composed and resolved, plain values.

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
    model = identified(config["model"])
    config = {**config, "sampler": sampler_section(config["sampler"], model)}
    config["calib_sampler"] = calib_sampler(config)
    sections = (*_SECTIONS, "numerics") if "numerics" in config else _SECTIONS  # may be prepared already
    for section in sections:
        check_types(section, config[section])
    model |= told(model, config["cond"])
    config["correct"] = correction(config["correct"], model.get("cond"))
    prepared = {**config, "model": model, "to_uint8": config["protocol"]["to_uint8"]}
    prepared["bits"] = {**config["bits"], "name": bits_name(config["bits"])}
    objects = {section: build.make(config[section]) for section in sections}
    for section, made in objects.items():
        check_made(section, config[section], made)
    check_trace(config.get("trace"))
    check_seeds(config, objects["correct"].seeds)
    objects["correct"].check(objects["sampler"].eta)
    prepared["recon_targets"] = objects["recon"].targets
    scheduler, calibrated = (objects[name].scheduler(model_schedule(model)) for name in ("sampler", "calib_sampler"))
    objects["calib"].check(calibrated)
    for name, made in (("sampler", scheduler), ("calib", objects["calib"].scheduler(calibrated))):
        check_scheduler(name, config[name], made)
    check_strategy(objects["calib"], model)
    check_combination(objects["scheme"] + objects["policy"], objects["recon"])
    check_steps(objects["scheme"], calibrated.timesteps, scheduler.timesteps)
    if config["stage"] == "evaluate":
        check_counts(config, objects["protocol"])
        check_readable(image_shape(model), objects["protocol"], f"the model {model['name']}", drawn=True)
        check_tabulated(config, objects["protocol"])
    for name in _HOW:
        prepared.pop(name, None)
    # Without these, what is recorded is what was recorded before they existed.
    if objects.get("numerics", Numerics()) == Numerics():
        prepared.pop("numerics", None)
    if config.get("fp_seeds") is None:
        prepared.pop("fp_seeds", None)
    prepared["measured_with"] = None
    if config["stage"] == "evaluate":
        prepared["measured_with"] = measured_with(objects["protocol"], config["runtime"]["outputs"])
    return with_code(prepared, NODES.values())


def told(model: Mapping[str, Any], cond: Mapping[str, Any]) -> dict[str, Any]:
    """What a model is told and how, as its entry `cond`; nothing for an unconditional one. cond: the section of that name.

    Raises ConfigError for guidance that cannot be, and what `load_conditions` raises.
    """
    conditions = model_conditions(model, cond["classes"], cond["prompts"])
    check_guidance(cond["guidance"], conditions)
    if conditions is None:
        return {}
    prompts = cond["prompts"] and file_sha256(resolve(cond["prompts"]))
    sha256 = {"prompts": prompts, "encoder": model_encoder_sha256(model)}
    return {"cond": {"guidance": cond["guidance"], "classes": cond["classes"], **sha256, "path": cond["prompts"]}}


def check_guidance(scale: Any, conditions: Conditions | None) -> None:
    """Raise ConfigError for a scale that is no number, or for guidance of a model that is told nothing."""
    check_scale(scale, conditions is not None)
    if scale is not None and conditions is not None:
        conditions.none()


def check_scale(scale: Any, conditional: bool) -> None:
    """check_guidance without the conditions themselves. conditional: whether the model is told something."""
    if scale is None:
        return
    if not isinstance(scale, int | float) or isinstance(scale, bool) or not 0 <= scale < math.inf:
        raise ConfigError(f"cond.guidance={scale} is not possible; give a number, at least 0, or null for none.")
    if not conditional:
        raise ConfigError(f"cond.guidance={scale} was given, but this model is unconditional; leave it at null.")


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
    """The sampler that calibration and reconstruction see: the one that is sampled with, or one of calibrated_steps.

    Raises ConfigError for a number of steps that cannot be.
    """
    steps = config["calibrated_steps"]
    if steps is not None and (type(steps) is not int or steps < 1):
        raise ConfigError(f"calibrated_steps={steps} is not possible; give a whole number, at least 1, or null.")
    return {**config["sampler"], **({} if steps is None else {"num_inference_steps": steps})}


def measured_with(protocol: Protocol, outputs: str) -> dict[str, str | None]:
    """sha256 of the extractor's weights, of others it needs, and of the reference's file, where it has one; all are checked to be what the
    protocol asks for. Raises MissingWeightsError or EvaluationError.
    """
    reference = reference_identity(protocol, outputs)
    return {"extractor": extractor_sha256(protocol), "reference": reference, **further_sha256(protocol)}


def check_tabulated(config: Mapping[str, Any], protocol: Protocol) -> None:
    """A protocol for trying things out has no place in a table. Raises ConfigError."""
    if config.get("table") and config["table"]["name"] is not None and not protocol.tabulated:
        raise ConfigError(
            f"The table {config['table']['name']} was asked to hold numbers of protocol={protocol.name}, which is for trying"
            " things out and never tabulated; choose another protocol, or leave table out."
        )


def check_counts(config: Mapping[str, Any], protocol: Protocol) -> None:
    """Every range that is measured must have the protocol's number of images. Raises SeedError."""
    for key, ranges in _measured(config).items():
        if len(ranges[0]) != protocol.num_images:  # parse_ranges made sure that they are equal
            raise SeedError(
                f"{key}={show(ranges[0])} gives {len(ranges[0])} images, but the protocol {protocol.name} measures"
                f" {protocol.num_images}; change {key}, or protocol.num_images for another protocol."
            )


def check_seeds(config: Mapping[str, Any], correction: str | None) -> None:
    """Calibration, correction and evaluation must not share noise, nor what is traced with what was fitted. Raises SeedError."""
    fitted = {"calib.seeds": parse_range(config["calib"]["seeds"])}
    if correction is not None:
        fitted["correct.seeds"] = parse_range(correction)
    for key, ranges in _measured(config).items():  # each on its own: seeds and fp_seeds may share noise
        require_disjoint({**{f"{key}[{i}]": seeds for i, seeds in enumerate(ranges)}, **fitted})
    if config.get("trace") is not None:
        require_disjoint({"trace.seeds": parse_range(config["trace"]["seeds"]), **fitted})


def check_trace(section: Any) -> None:
    """Raise ConfigError for a section `trace` that is not {seeds: ...}, and SeedError for seeds that cannot be."""
    if section is None:
        return
    if not isinstance(section, Mapping) or set(section) != {"seeds"}:
        raise ConfigError(
            f"trace={section} is not possible; give trace.seeds=3000000-3000063, or trace=null for no trace."
        )
    parse_range(section["seeds"])


def _measured(config: Mapping[str, Any]) -> dict[str, list[range]]:
    """Where images are measured, by the name of the setting."""
    given = ["seeds", "fp_seeds"] if config.get("fp_seeds") is not None else ["seeds"]
    return {key: parse_ranges(config[key]) for key in given}
