"""From what Hydra composed to what the stages read: plain values, the model's identity, and early refusals."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import EvaluationError
from dmq_cli.models import folder_sha256
from dmq_cli.paths import resolve
from dmq_cli.sampling import parse_range, parse_ranges, require_disjoint, show
from dmq_cli.stages import build


def prepare(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration every stage is keyed by. config: composed and resolved, plain values.

    Adds the sha256 of the model, makes its path absolute, and refuses, before anything is computed, seeds that overlap,
    image counts that do not fit the protocol and sections whose arguments do not fit.
    """
    path = resolve(config["model"]["path"])
    model = {**config["model"], "path": str(path), "sha256": folder_sha256(path)}
    prepared = {**config, "model": model, "to_uint8": config["protocol"]["to_uint8"]}
    objects = {section: build.make(config[section]) for section in ("calib", "scheme", "recon", "correct", "sampler", "protocol")}
    check_seeds(config, objects["correct"].seeds)
    for seeds in parse_ranges(config["seeds"]):
        if config["stage"] == "evaluate" and len(seeds) != objects["protocol"].num_images:
            raise EvaluationError(
                f"seeds={show(seeds)} gives {len(seeds)} images, but the protocol {objects['protocol'].name} measures"
                f" {objects['protocol'].num_images}; change seeds, or protocol.num_images for another protocol."
            )
    return prepared


def check_seeds(config: Mapping[str, Any], correction: str | None) -> None:
    """Calibration, correction and evaluation must not share noise. Raises SeedError."""
    named = {f"seeds[{i}]": seeds for i, seeds in enumerate(parse_ranges(config["seeds"]))}
    named["calib.seeds"] = parse_range(config["calib"]["seeds"])
    if correction is not None:
        named["correct.seeds"] = parse_range(correction)
    require_disjoint(named)
