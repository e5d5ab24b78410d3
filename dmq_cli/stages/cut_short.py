"""Whether a calibration set of evenly spaced steps once ended before its trajectories did, by its configuration alone: part of the
version of `calibset`. Imports no diffusers.

Of S calls those with number 0, k, 2k, ... were kept, k = floor(S / num_steps), num_steps of them; now floor(i S / num_steps). Both are the
same where num_steps is at least S, or divides S or S - 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dmq_cli.errors import DmqError
from dmq_cli.quant import TRAINING_TIMESTEPS
from dmq_cli.sampling import spaced

_PER_STEP = {"dmq_cli.sampling.DPMpp2S": 2}
_FURTHER = {"dmq_cli.sampling.PLMS": 1}
_DEPENDS = ("quad", "ldm")
"""Spacings that depend on the training timesteps, which no configuration has; the others visit as many as they are asked for."""


def was_cut_short(config: Mapping[str, Any]) -> bool:
    """Whether the calls that are kept now are others than before. config: composed, or prepared."""
    calib = config.get("calib")
    if not isinstance(calib, Mapping) or calib.get("_target_") != "dmq_cli.calib.Uniform":
        return False
    try:
        num, calls = int(calib["num_steps"]), _calls(_calib_sampler(config))
    except (DmqError, TypeError, ValueError, KeyError):  # preparing refuses it
        return False
    return 0 < num < calls and calls % num > 1


def _calib_sampler(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The section of that name, which a composed configuration has not yet."""
    if "calib_sampler" in config:
        return dict(config["calib_sampler"])
    steps = config.get("calibrated_steps")
    return {**config["sampler"], **({} if steps is None else {"num_inference_steps": steps})}


def _calls(sampler: Mapping[str, Any]) -> int:
    """Network calls of a trajectory. Raises ConfigError for more than there are timesteps."""
    target, steps, spacing = str(sampler.get("_target_")), int(sampler["num_inference_steps"]), sampler.get("spacing")
    per_step = _PER_STEP.get(target, 1)
    visited = len(spaced(TRAINING_TIMESTEPS, steps, spacing, per_step)) if spacing in _DEPENDS else steps * per_step
    return visited + _FURTHER.get(target, 0)
