"""Settings that were added after results existed, and the value of each that means what was done before it.

At that value a setting enters no key, so that artifacts, jobs and cells made before it are found as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TOP: Mapping[str, Any] = {"layer_bits": None, "format": "diffusers", "backend": "simulated"}
_NEVER = ("data",)
"""Sections that act only through others that take their values (recon), and are in keys there."""
_OWN = ("benchmark",)
"""Sections that only the command of their name reads."""
_TAKEN_OVER: Mapping[str, set[str]] = {
    "budget": {"training"},
    "train": {"loss", "accumulate", "lr", "min_snr"},
}
"""By section: settings of this kind."""
_BY_TARGET: Mapping[str, Mapping[str, Any]] = {
    "dmq_cli.correct.Tac": {"inputs": "corrected", "pull": "printed", "least_timestep": 0, "correct_output": False},
    "dmq_cli.wrap.Scheme": {"range": "scale", "network": "full", "samples": None},
    "dmq_cli.recon.Pass": {"bias": 0.0, "mixed": "main"},
    "dmq_cli.models.Numerics": {"autotune": False},
    "dmq_cli.qat.Settings": {"dtype": "float32", "min_snr": None, "adam_eps": 1e-8},
    "dmq_cli.recon.SignSteps": {"ranges": False},
    "dmq_cli.recon.Quest": {
        "attention_but": "", "local": "temporal", "counted": "once", "relative": True, "temporal_scale_lr": None,
    },
}  # fmt: skip
_CHANGED: Mapping[str, tuple[str, str, Any, Any]] = {"budget": ("light", "refine_iterations", 300, 100)}
"""By section: the choice, the value that has changed since, its value now and before. These sections act only through others that take
their values, which stand in keys as they are; so the section itself enters keys as it was."""


def former_values(target: str) -> Mapping[str, Any]:
    """The settings of a class that were added later, each at the value that means what was done before it."""
    return _BY_TARGET.get(target, {})


def without_later(config: Any, top: bool = False) -> Any:
    """Copy plain values, without settings at the value that stands for the time before them. top: of a whole configuration."""
    if isinstance(config, list | tuple):
        return [without_later(item) for item in config]
    if not isinstance(config, Mapping):
        return config
    if top:
        config = _not_twice(as_it_acts(config))
    former = _TOP if top else former_values(str(config.get("_target_")))
    return {k: without_later(v) for k, v in config.items() if k not in former or v != former[k]}


def as_it_acts(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with the ends of ranges that learning moves as `scale`, where nothing learns them: all values are the same then."""
    if (
        not isinstance(scheme := config.get("scheme"), Mapping)
        or "range" not in scheme
        or _learns_ranges(config.get("recon"))
    ):
        return config
    return {**config, "scheme": {**scheme, "range": "scale"}}


def _learns_ranges(recon: Any) -> bool:
    """Whether a reconstruction learns ranges of activations; True for one that dmq does not know."""
    target = recon.get("_target_") if isinstance(recon, Mapping) else None
    if target == "dmq_cli.recon.Reconstruction":
        return any(step.get("scales") is not None for step in recon.get("passes", {}).values())
    return bool(target != "dmq_cli.recon.NoReconstruction")


def _not_twice(config: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what other sections have taken over, and sections that have nothing else."""
    kept = {name: section for name, section in config.items() if name not in _NEVER}
    kept = {name: section for name, section in kept.items() if name not in _OWN or config.get("stage") == name}
    for name, taken in _TAKEN_OVER.items():
        if isinstance(section := kept.get(name), Mapping):
            kept[name] = {key: value for key, value in _former(name, section).items() if key not in taken}
            if section and not kept[name]:
                del kept[name]
    return kept


def _former(name: str, section: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section as it was before its choice changed."""
    if name not in _CHANGED:
        return section
    choice, key, now, before = _CHANGED[name]
    return {**section, key: before} if (section.get("name"), section.get(key)) == (choice, now) else section
