"""From what Hydra composed to what the stages read: plain values, the model's identity, and early refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import ConfigError, EvaluationError, SeedError, nearest
from dmq_cli.metrics import Protocol, extractor_sha256
from dmq_cli.models import folder_sha256, load_schedule
from dmq_cli.paths import resolve
from dmq_cli.sampling import parse_range, parse_ranges, require_disjoint, show
from dmq_cli.stages import build
from dmq_cli.stages.check import check_runtime, check_types
from dmq_cli.stages.nodes import NODES
from dmq_cli.store import file_sha256

_SECTIONS = ("calib", "scheme", "recon", "correct", "sampler", "protocol")


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
    check_runtime(config["runtime"], NODES)
    for section in _SECTIONS:
        check_types(section, config[section])
    path = resolve(config["model"]["path"])
    model = {**config["model"], "sha256": folder_sha256(path)}
    prepared = {**config, "model": model, "to_uint8": config["protocol"]["to_uint8"]}
    objects = {section: build.make(config[section]) for section in _SECTIONS}
    check_seeds(config, objects["correct"].seeds)
    objects["calib"].steps(len(objects["sampler"].scheduler(load_schedule(path)).timesteps))
    for seeds in parse_ranges(config["seeds"]):
        if config["stage"] == "evaluate" and len(seeds) != objects["protocol"].num_images:
            raise SeedError(
                f"seeds={show(seeds)} gives {len(seeds)} images, but the protocol {objects['protocol'].name} measures"
                f" {objects['protocol'].num_images}; change seeds, or protocol.num_images for another protocol."
            )
    prepared["measured_with"] = measured_with(objects["protocol"]) if config["stage"] == "evaluate" else None
    return prepared


def measured_with(protocol: Protocol) -> dict[str, str | None]:
    """sha256 of the extractor's weights and of the reference's file. Raises MissingWeightsError or EvaluationError."""
    if protocol.reference_path is None:
        return {"extractor": extractor_sha256(protocol), "reference": None}
    file = resolve(protocol.reference_path)
    if not file.is_file():
        raise EvaluationError(
            f"The protocol's reference {protocol.reference} should be at {file}, which is no file; set protocol.reference_path."
        )
    return {"extractor": extractor_sha256(protocol), "reference": file_sha256(file)}


def check_seeds(config: Mapping[str, Any], correction: str | None) -> None:
    """Calibration, correction and evaluation must not share noise. Raises SeedError."""
    named = {f"seeds[{i}]": seeds for i, seeds in enumerate(parse_ranges(config["seeds"]))}
    named["calib.seeds"] = parse_range(config["calib"]["seeds"])
    if correction is not None:
        named["correct.seeds"] = parse_range(correction)
    require_disjoint(named)
