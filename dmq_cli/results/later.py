"""Settings that were added after results existed, and the value of each that means what was done before it.

At that value a setting enters no key, so that artifacts, jobs and cells made before it are found as before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TOP: Mapping[str, Any] = {"layer_bits": None}
_BY_TARGET: Mapping[str, Mapping[str, Any]] = {
    "dmq_cli.correct.Tac": {"inputs": "corrected", "pull": "printed", "least_timestep": 0, "correct_output": False},
    "dmq_cli.wrap.Scheme": {"range": "scale", "network": "full", "samples": None},
    "dmq_cli.recon.Pass": {"bias": 0.0, "mixed": "main"},
    "dmq_cli.recon.SignSteps": {"ranges": False},
    "dmq_cli.recon.Quest": {
        "attention_but": "", "local": "temporal", "counted": "once", "relative": True, "temporal_scale_lr": None,
    },
}  # fmt: skip


def without_later(config: Any, top: bool = False) -> Any:
    """Copy plain values, without settings at the value that stands for the time before them. top: of a whole configuration."""
    if isinstance(config, list | tuple):
        return [without_later(item) for item in config]
    if not isinstance(config, Mapping):
        return config
    former = _TOP if top else _BY_TARGET.get(str(config.get("_target_")), {})
    return {k: without_later(v) for k, v in config.items() if k not in former or v != former[k]}
